"""What starting a worker process costs."""
