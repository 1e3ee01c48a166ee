"""What many instances of the proxy need beside them, started on this machine: for trying, and for the tests."""
