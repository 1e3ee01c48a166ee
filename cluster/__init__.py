"""Starts several instances of the proxy, and what they need, on this machine: for trying it out, and for the tests."""
