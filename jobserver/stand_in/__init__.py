"""A stand-in for any job server that has a profile: it answers and calls back with the profile's own samples."""
