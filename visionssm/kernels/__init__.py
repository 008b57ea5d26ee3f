"""Operators: pure functions of tensors, one folder each, with a definition, a CPU kernel and a GPU kernel."""

from visionssm.kernels.backend import use_backend
from visionssm.kernels.selective_scan import LowRank, selective_scan

__all__ = ["LowRank", "selective_scan", "use_backend"]
