"""The one count of operations against the figures that the models' authors publish."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visionssm.benchmarks.flops import count_multiply_adds, create_for_size, multiply_adds_of, scan_multiply_adds
from visionssm.kernels import LowRank, selective_scan
from visionssm.kernels import routes as route_tables

PUBLISHED = {  # GFLOPs of a 224×224 image
    "vmamba_tiny_s1l8": 4.9,
    "vmamba_tiny_s2l5": 4.9,
    "vmamba_v0_tiny": 5.6,
    "efficientvmamba_tiny": 0.788,
    "efficientvmamba_small": 1.318,
    "efficientvmamba_base": 3.951,
    "msvmamba_nano": 0.88,
    "msvmamba_micro": 1.532,
    "msvmamba_tiny": 4.613,
    "groupmamba_tiny": 4.5,
    "spatialmamba_tiny": 4.5,
    "vssd_micro": 2.3,
    "vssd_tiny": 4.5,
    "swin_tiny_patch4_window7_224": 4.5,
    "convnext_tiny": 4.47,
    "deit_small_patch16_224": 4.6,
    "mambaout_tiny": 4.5,
}
