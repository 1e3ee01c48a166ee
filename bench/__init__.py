"""The benchmark: this proxy beside others, in one run, on one job server."""
