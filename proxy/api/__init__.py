"""The HTTP entrance: what a request means, and what it is answered."""
