"""The proxies that the benchmark compares with. Each is one small program of its own."""
