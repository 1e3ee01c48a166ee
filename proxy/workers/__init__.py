"""The worker processes of this machine."""
