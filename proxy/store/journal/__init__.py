"""The store that survives the process: a SQLite file, read and written by its own thread."""
