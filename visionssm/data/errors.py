"""Errors of data sets; all are ValueErrors whose text says what to do."""

from __future__ import annotations


class DatasetError(ValueError):
    """A data set is missing, incomplete or inconsistent."""


class CorruptImageError(DatasetError):
    """An image cannot be decoded and the configuration asks to stop in that case."""
