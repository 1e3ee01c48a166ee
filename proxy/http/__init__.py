"""From bytes to ASGI and back. Knows nothing about jobs."""
