"""The API description, for people and for tools."""
