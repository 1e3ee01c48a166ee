"""The benchmark: this proxy and others, in one run, with the same job server."""
