"""Norms in ONNX that stay exact on large maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


def translations() -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` is to write in place of its own forms of operators."""
    return {torch.ops.aten.instance_norm.default: _instance_norm}


def _instance_norm(
    x: Any,
    weight: Any = None,
    bias: Any = None,
    running_mean: Any = None,
    running_var: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = False,
) -> Any:
    """(B, C, *sides) to the same shape, with means of means, one axis after another.

    ONNX's own InstanceNormalization adds up all pixels of a map one by one in onnxruntime. In float32 that is off by
    1e-5 for 64³ pixels, and in a network of many norms by 1e-3.
    """
    import onnxscript

    op: Any = onnxscript.opset18
    del momentum, cudnn_enabled
    axes = range(len(x.shape) - 1, 1, -1)

    def over_pixels(values: Any) -> Any:
        for axis in axes:
            values = op.ReduceMean(values, op.Constant(value_ints=[axis]), keepdims=1)
        return values

    def of_channels(values: Any) -> Any:  # (C,) to (C, 1, …)
        return op.Unsqueeze(values, op.Constant(value_ints=list(range(1, len(axes) + 1))))

    mean = over_pixels(x) if use_input_stats else of_channels(running_mean)
    centred = op.Sub(x, mean)
    variance = over_pixels(op.Mul(centred, centred)) if use_input_stats else of_channels(running_var)
    y = op.Div(centred, op.Sqrt(op.Add(variance, op.CastLike(op.Constant(value_float=eps), x))))
    y = y if weight is None else op.Mul(y, of_channels(weight))
    return y if bias is None else op.Add(y, of_channels(bias))
