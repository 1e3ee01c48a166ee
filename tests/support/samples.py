"""A profile's samples, as jobs for its stand-in."""

from __future__ import annotations

from shared.job_server.profile import Sample

__all__ = ["with_wish"]


def with_wish(sample: Sample, wish: str, content_type: str) -> bytes:
    """Return a sample's job with a wish, in a place that is valid for its content type."""
    text = f"stand-in={wish}"
    if content_type == "application/json":
        return sample.body.replace("{", f'{{"wish": "{text}", ', 1).encode()
    if content_type.startswith("multipart/"):
        part = f'--b\r\nContent-Disposition: form-data; name="wish"\r\n\r\n{text}\r\n'
        return (part + sample.body).encode()
    return f"{text} {sample.body}".encode()
