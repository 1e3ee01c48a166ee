"""Tests: unit, integration, chaos and e2e, one folder each."""

from __future__ import annotations

import os

os.environ["HYPOTHESIS_NO_PLUGINS"] = "1"  # Hypothesis would load Trio, of which the tests use nothing
