"""The description of the routes, for people and for tools."""
