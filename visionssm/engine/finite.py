"""Refusing what a network says where it is no number: the largest of NaN would still be a class."""

from __future__ import annotations


def check_finite(finite: bool) -> None:
    """Raise ValueError unless all numbers that a network gave are finite.

    Examples:
        >>> import torch
        >>> scores = torch.tensor([0.1, float("nan")])
        >>> check_finite(bool(scores.isfinite().all()))
        Traceback (most recent call last):
        ...
        ValueError: the network gives NaN or infinite numbers, of which nothing can be told: its training diverged, or \
half precision overflows; take an earlier checkpoint, or float32
    """
    if not finite:
        raise ValueError(
            "the network gives NaN or infinite numbers, of which nothing can be told: its training diverged, or half "
            "precision overflows; take an earlier checkpoint, or float32"
        )
