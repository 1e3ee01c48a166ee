"""The store that outlives the process: a file, read and written by a thread of its own."""
