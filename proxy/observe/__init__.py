"""What the proxy says about itself. Nothing here may change an answer."""
