"""What is remembered of jobs, and for how long."""
