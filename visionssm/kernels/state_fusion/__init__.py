"""Fusion of states: dilated depth-wise convolutions of one map, added (Spatial-Mamba, arXiv 2410.15091)."""

from __future__ import annotations

import torch
from torch import Tensor

from visionssm.kernels.backend import runs_compiled
from visionssm.kernels.checks import check_same_device, check_shape
from visionssm.kernels.state_fusion.reference import (
    DILATIONS,
    TAPS,
    state_fusion_dense,
    state_fusion_reference,
)

__all__ = ["DILATIONS", "TAPS", "state_fusion"]


def state_fusion(h: Tensor, kernels: Tensor) -> Tensor:
    """Each pixel's weighted sum of the 3×3 pixels around it at distances 1, 3 and 5, channel by channel.

    y[i, j] = Σ_s Σ_t kernels[s, t] ⊙ h[i + s·t₁, j + s·t₂] with s in `DILATIONS` and t in {−1, 0, 1}², row by row; the
    border of the map is repeated (Xiao et al. 2024, arXiv 2410.15091).

    A compiled kernel runs it in float32 on CPUs where no gradient is asked for and nobody looks on. All else runs
    PyTorch's convolutions: one dense one in inference on CPUs and in exported graphs, else three dilated ones.

    Args:
        h: (B, H, W, D) map of any float dtype.
        kernels: (3, 9, D), in the same dtype.

    Returns:
        (B, H, W, D).

    Raises:
        ValueError: shapes or devices disagree.

    Examples:
        >>> import torch
        >>> from visionssm.kernels.state_fusion import state_fusion
        >>> y = state_fusion(torch.ones(1, 6, 5, 4), torch.ones(3, 9, 4))
        >>> torch.testing.assert_close(y, torch.full((1, 6, 5, 4), 27.0))
    """
    check_same_device({"h": h, "kernels": kernels})
    check_shape("h", h, ("B", "H", "W", "D"))
    sizes = {"dilations": len(DILATIONS), "taps": TAPS, "D": h.shape[-1]}
    check_shape("kernels", kernels, ("dilations", "taps", "D"), sizes)
    if not torch.is_grad_enabled() and runs_compiled(h, kernels):
        from visionssm.kernels.state_fusion import cpu

        return cpu.forward(h, kernels)
    if h.device.type == "cpu" and (torch.compiler.is_exporting() or not torch.is_grad_enabled()):
        return state_fusion_dense(h, kernels)
    return state_fusion_reference(h, kernels)
