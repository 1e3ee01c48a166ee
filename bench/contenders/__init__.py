"""The proxies that the benchmark compares with. Each is a small program."""
