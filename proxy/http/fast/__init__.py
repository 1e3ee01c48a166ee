"""The path for plain HTTP/1.1 requests, which bypasses Hypercorn: a folder that can be deleted."""
