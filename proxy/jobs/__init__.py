"""The life of one job in this process, from admission to its recorded outcome. No HTTP, no processes, no SQL."""
