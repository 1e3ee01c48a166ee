"""The life of one job in this process, from admission to its remembered outcome. No HTTP, no processes, no SQL."""
