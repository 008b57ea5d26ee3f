"""A stand-in for `mmcv._ext`, the compiled half of mmcv, which the wheel on PyPI does not contain.

mmcv's Python files look up their operators in the module `mmcv._ext` by name and hand them their result tensors to
fill. Here are those that box detectors, mask heads, deformable convolutions and deformable attention use, on the
operators of torchvision; they run on CPUs and GPUs, and compute half precision in float32. All other names exist too,
as functions that say when called what is missing.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from visionssm.extras import MissingExtraError
from visionssm.integrations.openmmlab.precision import wide
from visionssm.integrations.openmmlab.rois import (
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)

STAND_IN_VERSION = "none: operators of torchvision, provided by visionssm"
HOW_TO_COMPILE = "compile mmcv, which takes ten minutes or more; docs/dense_prediction.md has the command"


class MissingOperatorError(NotImplementedError):
    """An operator of mmcv was called that only its compiled form has."""


def provide_operators() -> bool:
    """Put the stand-in where mmcv looks for its operators, unless compiled ones are installed.

    To be called before mmdet or mmseg is imported. Returns whether the stand-in is in use.

    Raises:
        MissingExtraError: (an ImportError) mmcv is not installed.
    """
    if "mmcv._ext" in sys.modules:
        return isinstance(sys.modules["mmcv._ext"], StandIn)
    if importlib.util.find_spec("mmcv") is None:
        raise MissingExtraError("mmcv is not installed: pip install 'visionssm[openmmlab]'")
    if importlib.util.find_spec("mmcv._ext") is not None:
        return False
    import mmcv

    stand_in = StandIn("mmcv._ext")
    stand_in.__spec__ = ModuleSpec("mmcv._ext", loader=None, origin=__file__)
    sys.modules["mmcv._ext"] = mmcv._ext = stand_in
    return True


class StandIn(ModuleType):
    """The module `mmcv._ext`: the operators of this file, and for any other name a function that raises."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return OPERATORS.get(name) or _missing(name)

    def __dir__(self) -> list[str]:
        return sorted(OPERATORS)


def _missing(name: str) -> Callable[..., Any]:
    def operator(*_: Any, **__: Any) -> Any:
        raise MissingOperatorError(
            f"the operator {name!r} of mmcv is not available here; to use it, {HOW_TO_COMPILE}. Available without "
            f"compiling: {', '.join(sorted(OPERATORS))}"
        )

    operator.__name__ = name
    return operator


# Boxes are (N, 4): x1, y1, x2, y2. With offset 1, as in old data sets, the pixel at x2 belongs to the box.


def nms(boxes: Tensor, scores: Tensor, *, iou_threshold: float, offset: int) -> Tensor:
    """Non-maximum suppression: indices of the boxes that are kept, best first."""
    boxes, scores = wide(boxes, scores)
    return torchvision.ops.nms(boxes + boxes.new_tensor([0, 0, offset, offset]), scores, iou_threshold)


# How much of its score a box keeps beside a better one that it overlaps by `iou`; the index is mmcv's number.
_DECAYS: tuple[Callable[[Tensor, float, float], Tensor], ...] = (
    lambda iou, threshold, sigma: (iou < threshold).to(iou),
    lambda iou, threshold, sigma: torch.where(iou < threshold, torch.ones_like(iou), 1 - iou),
    lambda iou, threshold, sigma: torch.exp(-(iou**2) / sigma),
)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    *,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al. 2017): instead of removing overlapping boxes, lower their scores.

    Args:
        dets: (N, 5) to fill with boxes and new scores, best first.
        min_score: boxes whose score falls below it are removed.
        method: 0 for plain NMS, 1 for linear, 2 for Gaussian decay.
    Returns:
        Indices of the boxes in the first rows of `dets`.
    """
    scores = scores.clone()
    remaining = torch.arange(len(boxes))
    kept: list[int] = []
    while len(remaining):
        best = int(scores[remaining].argmax())
        index = int(remaining[best])
        dets[len(kept), :4], dets[len(kept), 4] = boxes[index], scores[index]
        kept.append(index)
        remaining = torch.cat([remaining[:best], remaining[best + 1 :]])
        iou = _overlaps(boxes[index], boxes[remaining], offset)[0]
        scores[remaining] *= _DECAYS[method](iou, iou_threshold, sigma)
        remaining = remaining[scores[remaining] >= min_score]
    return torch.tensor(kept, dtype=torch.long)


def _overlaps(a: Tensor, b: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """Intersection over union, and over the area of `a`, of (…, 4) boxes that broadcast."""
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]) + offset).clamp(min=0)
    intersection = size.prod(-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2] + offset).prod(-1) for x in (a, b))
    union = area_a + area_b - intersection
    return intersection / union.clamp(min=offset), intersection / area_a.clamp(min=offset)


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, *, mode: int, aligned: bool, offset: int) -> None:
    """Fill `ious`, (M, N) or with `aligned` (N,), with intersection over union (mode 0) or over the first area (1)."""
    ious.copy_(_overlaps(bboxes1 if aligned else bboxes1[:, None], bboxes2, offset)[mode])


# Deformable convolutions: offsets are (B, groups·2·kh·kw, H, W), y before x. Version 2 multiplies samples by a mask.


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **geometry: int
) -> None:
    """Fill `output` with the deformable convolution (Dai et al. 2017)."""
    _convolve(output, input, weight, offset, None, None, _geometry(geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Fill the gradients of input and offsets."""
    gradients = _convolution_gradients(grad_output, input, weight, offset, None, _geometry(geometry))
    grad_input.copy_(gradients[0])
    grad_offset.copy_(gradients[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float,
    **geometry: int,
) -> None:
    """Add to `grad_weight` its gradient, times `scale`."""
    gradients = _convolution_gradients(grad_output, input, grad_weight, offset, None, _geometry(geometry))
    grad_weight += scale * gradients[1]


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Fill `output` with the modulated deformable convolution (Zhu et al. 2019)."""
    _convolve(output, input, weight, offset, mask, bias if with_bias else None, _geometry(geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Fill all gradients of `modulated_deform_conv_forward`."""
    gradients = _convolution_gradients(grad_output, input, weight, offset, mask, _geometry(geometry))
    for target, gradient in zip((grad_input, grad_weight, grad_offset, grad_mask), gradients):
        target.copy_(gradient)
    if with_bias:
        grad_bias.copy_(grad_output.sum((0, 2, 3)))


def _geometry(named: dict[str, int]) -> tuple[int, ...]:
    """mmcv's two spellings of the geometry to torchvision's order."""
    v1 = ("dH", "dW", "padH", "padW", "dilationH", "dilationW")
    v2 = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w")
    names = (*(v1 if "dH" in named else v2), "group", "deformable_group")
    return tuple(named[name] for name in names)


def _convolve(
    output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> None:
    no_bias = weight.new_zeros(weight.shape[0])
    operands = wide(input, weight, offset, _mask(mask, input), no_bias if bias is None else bias)
    output.copy_(torch.ops.torchvision.deform_conv2d(*operands, *geometry, mask is not None))


def _convolution_gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Gradients of input, weight, offset and mask."""
    no_bias = weight.new_zeros(weight.shape[0])
    operands = wide(grad_output, input, weight, offset, _mask(mask, input), no_bias)
    return torch.ops.torchvision._deform_conv2d_backward(*operands, *geometry, mask is not None)[:4]


def _mask(mask: Tensor | None, input: Tensor) -> Tensor:
    return input.new_zeros((input.shape[0], 1)) if mask is None else mask  # the form torchvision uses for none


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill `output` (N, C) with the focal loss (Lin et al. 2017) of logits.

    Args:
        target: (N,) class numbers; C means background, none of the classes.
        weight: (C,) factors by the sample's class, or empty; background counts once.
    """
    logits, is_class, factor = _focal(input, target, weight)
    p, q = logits.sigmoid(), (-logits).sigmoid()
    hit = -alpha * q**gamma * F.logsigmoid(logits)
    rest = -(1 - alpha) * p**gamma * F.logsigmoid(-logits)
    output.copy_(torch.where(is_class, hit, rest) * factor)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill `grad_input` with the derivative of every loss by its logit."""
    logits, is_class, factor = _focal(input, target, weight)
    p, q = logits.sigmoid(), (-logits).sigmoid()
    hit = -alpha * q**gamma * (q - gamma * p * F.logsigmoid(logits))
    rest = (1 - alpha) * p**gamma * (p - gamma * q * F.logsigmoid(-logits))
    grad_input.copy_(torch.where(is_class, hit, rest) * factor)


def _focal(input: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, where the class is the sample's (N, C), and the factor of every sample (N, 1)."""
    (logits,) = wide(input)
    is_class = target[:, None] == torch.arange(input.shape[1], device=input.device)
    weights = weight if weight.numel() else logits.new_ones(input.shape[1])
    return logits, is_class, torch.cat([weights.to(logits), logits.new_ones(1)])[target][:, None]


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al. 2021) by mmcv's own PyTorch form, which it uses on CPUs."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, spatial_shapes, sampling_locations, attention_weights)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    *,
    im2col_step: int,
) -> None:
    """Fill the gradients of `ms_deform_attn_forward`."""
    with torch.enable_grad():
        v, s, a = (x.detach().requires_grad_() for x in (value, sampling_locations, attention_weights))
        output = ms_deform_attn_forward(v, spatial_shapes, level_start_index, s, a, im2col_step=im2col_step)
        gradients = torch.autograd.grad(output, (v, s, a), grad_output)
    for target, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True):
        target.copy_(gradient)


def get_compiler_version() -> str:
    """What mmcv reports about its operators' compiler."""
    return STAND_IN_VERSION


def get_compiling_cuda_version() -> str:
    """What mmcv reports about the CUDA version of its operators."""
    return STAND_IN_VERSION


OPERATORS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        nms,
        softnms,
        bbox_overlaps,
        roi_align_forward,
        roi_align_backward,
        roi_pool_forward,
        roi_pool_backward,
        deform_conv_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        modulated_deform_conv_forward,
        modulated_deform_conv_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
        ms_deform_attn_forward,
        ms_deform_attn_backward,
        get_compiler_version,
        get_compiling_cuda_version,
    )
}
