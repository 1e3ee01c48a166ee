"""Bytes to ASGI and back. Knows nothing of jobs."""
