"""RoIAlign and RoIPool in the form in which mmcv calls its compiled operators.

RoIs are (N, 5): image number, x1, y1, x2, y2 in pixels of the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor

from visionssm.integrations.openmmlab.precision import wide

MAXIMUM = 0
"""mmcv's number of the mode in which RoIAlign takes maxima; 1 is for averages."""


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `output` (N, C, h, w) with averages or maxima of bilinear samples in the bins of every RoI.

    Args:
        input: (B, C, H, W) map.
        argmax_y, argmax_x: (N, C, h, w) to fill with the places of the maxima in the map; empty for averages. In half
            precision they are rounded as the map is.
        sampling_ratio: samples per bin in each direction; 0 for one per pixel of the map.
        pool_mode: 0 for maxima, 1 for averages.
        aligned: pixel centres lie half a pixel inside; else as in old models, and RoIs are at least one pixel large.
    """
    size = (aligned_height, aligned_width)
    if pool_mode != MAXIMUM:
        output.copy_(torchvision.ops.roi_align(*wide(input, rois), size, spatial_scale, sampling_ratio, aligned))
        return
    (maps,) = wide(input)
    for n, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (x * spatial_scale - (0.5 if aligned else 0.0) for x in corners)
        least = 0.0 if aligned else 1.0
        ys = _sample_places(y1, max(y2 - y1, least), aligned_height, sampling_ratio, maps)  # (h, samples)
        xs = _sample_places(x1, max(x2 - x1, least), aligned_width, sampling_ratio, maps)  # (w, samples)
        if not ys.numel() or not xs.numel():
            argmax_y[n] = argmax_x[n] = -2  # outside: no gradient; `output` holds zeros already
            continue
        shape = (aligned_height, aligned_width, ys.shape[1], xs.shape[1])
        y, x = (t.expand(shape).flatten(2) for t in (ys[:, None, :, None], xs[None, :, None, :]))  # (h, w, samples)
        plane = maps[int(image)].flatten(1)  # (C, pixels)
        samples = sum(share * plane[:, pixel] for pixel, share in _neighbours(y, x, *maps.shape[2:]))
        best, place = torch.as_tensor(samples).max(-1)  # (C, h, w)
        output[n] = best
        for target, places in ((argmax_y, y), (argmax_x, x)):
            target[n] = places.expand(*best.shape, -1).gather(-1, place[..., None])[..., 0]


def _sample_places(start: float, length: float, bins: int, sampling_ratio: int, like: Tensor) -> Tensor:
    """(bins, samples of a bin) places at which an interval is sampled."""
    count = sampling_ratio if sampling_ratio > 0 else math.ceil(length / bins)
    steps = torch.arange(bins * count, dtype=like.dtype, device=like.device) + 0.5
    return (start + length / bins / max(count, 1) * steps).view(bins, count)


def _neighbours(y: Tensor, x: Tensor, height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The four pixels around places on a map, and their shares of a bilinear sample there.

    Places up to a pixel outside count as on the border, those farther away give 0.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.floor(), x.floor()
    for row, row_share in ((top, 1 - (y - top)), ((top + 1).clamp(max=height - 1), y - top)):
        for column, column_share in ((left, 1 - (x - left)), ((left + 1).clamp(max=width - 1), x - left)):
            yield (row * width + column).long(), row_share * column_share * inside


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add to `grad_input` (B, C, H, W) the gradient of `roi_align_forward`."""
    if pool_mode != MAXIMUM:
        size = (aligned_height, aligned_width)
        grad_input += torch.ops.torchvision._roi_align_backward(
            *wide(grad_output, rois), spatial_scale, *size, *grad_input.shape, sampling_ratio, aligned
        )
        return
    upstream, y, x = wide(grad_output, argmax_y, argmax_x)
    flat = upstream.new_zeros(grad_input.numel())
    starts = _plane_starts(rois, grad_input)[..., None, None]
    for pixel, share in _neighbours(y, x, *grad_input.shape[2:]):
        flat.index_add_(0, (starts + pixel).flatten(), (share * upstream).flatten())
    grad_input += flat.view_as(grad_input)


def _plane_starts(rois: Tensor, maps: Tensor) -> Tensor:
    """(N, C) place in the flattened (B, C, H, W) maps at which the planes of every RoI's image begin."""
    channels = maps.shape[1]
    planes = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    return planes * maps[0, 0].numel()


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    *,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill `output` (N, C, h, w) with the maximum in every bin of every RoI, and `argmax` with its pixel.

    A bin reaches from the floor of its start to the ceiling of its end and the RoI includes its last pixel, as in mmcv;
    torchvision rounds the corners of the RoI instead. Empty bins give 0 and pixel −1.
    """
    _, _, height, width = input.shape
    for n, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = corners[0], corners[1], corners[2] + 1, corners[3] + 1
        if x2 <= x1 or y2 <= y1:
            argmax[n] = -1  # `output` holds zeros already
            continue
        rows, in_row = _bins(y1 * spatial_scale, y2 * spatial_scale, pooled_height, height, input.device)
        columns, in_column = _bins(x1 * spatial_scale, x2 * spatial_scale, pooled_width, width, input.device)
        pixels = (rows[:, None, :, None] * width + columns[None, :, None, :]).flatten(2)  # (h, w, pixels of a bin)
        inside = (in_row[:, None, :, None] & in_column[None, :, None, :]).flatten(2)
        values = input[int(image)].flatten(1)[:, pixels].masked_fill(~inside, -torch.inf)  # (C, h, w, pixels of a bin)
        best, place = values.max(-1)
        filled = inside.any(-1)
        output[n] = torch.where(filled, best, torch.zeros_like(best))
        chosen = pixels.expand(values.shape).gather(-1, place[..., None])[..., 0]
        argmax[n] = torch.where(filled, chosen, torch.full_like(chosen, -1)).to(argmax.dtype)


def _bins(start: float, end: float, count: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixels of the bins of an interval, (count, size of the largest), and which of them belong to the bin."""
    edges = start + (end - start) / count * torch.arange(count + 1, device=device)
    first = edges[:-1].floor().clamp(0, length).long()
    behind = edges[1:].ceil().clamp(0, length).long()
    pixels = first[:, None] + torch.arange(max(int((behind - first).max()), 1), device=device)
    return pixels.clamp(max=length - 1), pixels < behind[:, None]


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    *,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add to `grad_input` (B, C, H, W) the gradient of `roi_pool_forward`."""
    pixels = _plane_starts(rois, grad_input)[..., None] + argmax.flatten(2)
    chosen = argmax.flatten(2) >= 0
    flat = grad_input.new_zeros(grad_input.numel())
    flat.index_add_(0, pixels[chosen], grad_output.flatten(2)[chosen])
    grad_input += flat.view_as(grad_input)
