"""What a client sends that takes the server for an HTTP/2 server."""

from __future__ import annotations

import h2.config
import h2.connection

__all__ = ["opening"]


def opening(path: str, body: bytes) -> bytes:
    """Return the first bytes of a client with prior knowledge: preface, settings, and a complete request."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    headers = [
        (":method", "POST"),
        (":path", path),
        (":scheme", "http"),
        (":authority", "proxy"),
        ("content-type", "application/json"),
    ]
    client.send_headers(1, headers)
    client.send_data(1, body, end_stream=True)
    return client.data_to_send()
