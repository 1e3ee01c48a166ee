"""What writes the generated parts of the documentation: `make docs` runs each of them."""
