"""What HTTP sees: the client's routes, the callback route, health, problems, and the admin routes."""
