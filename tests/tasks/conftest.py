"""Runs of tests start faster: describing the machine takes MMEngine a second or two."""

from tests.engine.conftest import quick_start

__all__ = ["quick_start"]
