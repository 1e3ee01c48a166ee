"""Tests: unit, integration, chaos and e2e, one folder each."""
