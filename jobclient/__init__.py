"""The load client: sends many jobs at once to one URL and reports whether all results came back in time."""
