"""What is done to the fork server's memory before it forks."""
