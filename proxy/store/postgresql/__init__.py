"""The store that many instances share: a PostgreSQL database, asked on the event loop, in batches."""
