"""The worker processes of this machine: starting them, talking to them, running jobs in them."""
