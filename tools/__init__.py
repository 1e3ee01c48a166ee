"""Generators of parts of the documentation, all run by `make docs`; and other tools."""
