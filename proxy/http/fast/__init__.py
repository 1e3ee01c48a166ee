"""The path of plain HTTP/1.1 requests, beside Hypercorn: a folder that can be deleted."""
