"""A model for Cog: echoes its input, fails or takes time on request."""

import time
from pathlib import Path

from cog import BasePredictor


class Predictor(BasePredictor):
    """The model."""

    def predict(self, text: str, seconds: float = 0.0, fail: bool = False) -> str:
        """Return `text`; if it takes time, create the file `text` first."""
        if seconds:
            Path(text).touch()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.02)
        if fail:
            raise ValueError("told to fail")
        return f"done: {text}"
