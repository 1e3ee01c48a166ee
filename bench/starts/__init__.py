"""The cost of starting a worker process."""
