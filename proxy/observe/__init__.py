"""What the proxy reports about itself: metrics, history, traces. Nothing here may change an answer."""
