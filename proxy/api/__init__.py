"""The HTTP entrance: what a request means and how it is answered."""
