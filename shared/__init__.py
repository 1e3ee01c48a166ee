"""What the front end and the workers have in common. Needs little beyond the standard library."""
