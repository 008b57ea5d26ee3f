"""mmcv's operators without compiling: values and gradients against definitions written out here as loops."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("mmcv", reason="needs the openmmlab extra")

import visionssm.integrations.openmmlab as openmmlab
from visionssm.integrations.openmmlab import operators

if not openmmlab.provide_operators():
    pytest.skip("compiled mmcv operators are installed", allow_module_level=True)

import mmcv.ops
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

REDUCED = (torch.bfloat16, torch.float16)


def _boxes(count: int, seed: int, side: float = 60.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * side
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * side / 2], dim=1)


def _iou(a: list[float], b: list[float], offset: int) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    inter = max(width, 0.0) * max(height, 0.0)
    areas = [(x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b)]
    return inter / (sum(areas) - inter)


# -- boxes -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(count=st.integers(0, 40), seed=st.integers(0, 1000), threshold=st.floats(0.05, 0.95), offset=st.integers(0, 1))
def test_nms_keeps_what_no_better_kept_box_overlaps(count: int, seed: int, threshold: float, offset: int) -> None:
    boxes = _boxes(count, seed)
    scores = torch.rand(count, generator=torch.Generator().manual_seed(seed + 1))
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(_iou(boxes[i].tolist(), boxes[j].tolist(), offset) <= threshold for j in kept):
            kept.append(i)
    dets, indices = mmcv.ops.nms(boxes, scores, threshold, offset=offset)
    assert indices.tolist() == kept
    torch.testing.assert_close(dets, torch.cat([boxes[kept], scores[kept, None]], dim=1).reshape(-1, 5))


@pytest.mark.parametrize("dtype", REDUCED)
def test_nms_of_half_precision_boxes(dtype: torch.dtype) -> None:
    boxes, scores = _boxes(30, 0).to(dtype), torch.linspace(1, 0.1, 30).to(dtype)
    expected = mmcv.ops.nms(boxes.float(), scores.float(), 0.3)[1]
    assert torch.equal(mmcv.ops.nms(boxes, scores, 0.3)[1], expected)


def test_batched_nms_lets_classes_overlap() -> None:
    boxes = _boxes(4, 0)[[0, 0, 1, 1]]
    scores, classes = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 1, 1, 1])
    dets, indices = mmcv.ops.batched_nms(boxes, scores, classes, dict(type="nms", iou_threshold=0.5))
    assert indices.tolist() == [0, 1, 2]
    torch.testing.assert_close(dets[:, 4], scores[:3])
    split = mmcv.ops.batched_nms(boxes, scores, classes, dict(type="nms", iou_threshold=0.5, split_thr=1))
    assert torch.equal(split[1], indices)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_decays_overlapped_scores(method: str, offset: int) -> None:
    boxes = _boxes(40, 3)
    scores = torch.rand(40, generator=torch.Generator().manual_seed(4))
    dets, indices = mmcv.ops.soft_nms(boxes, scores, 0.3, sigma=0.4, min_score=0.05, method=method, offset=offset)

    left = {i: float(s) for i, s in enumerate(scores)}
    expected = []
    while left:
        best = max(left, key=left.__getitem__)
        expected.append((best, left.pop(best)))
        for i in list(left):
            iou = _iou(boxes[best].tolist(), boxes[i].tolist(), offset)
            if method == "gaussian":
                left[i] *= math.exp(-iou * iou / 0.4)
            elif iou >= 0.3:
                left[i] *= 0.0 if method == "naive" else 1 - iou
            if left[i] < 0.05:
                del left[i]
    assert indices.tolist() == [i for i, _ in expected]
    assert len(expected) < 40 or method != "naive"
    torch.testing.assert_close(dets[:, 4], torch.tensor([s for _, s in expected]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(dets[:, :4], boxes[indices])


def test_soft_nms_of_nothing_is_nothing() -> None:
    dets, indices = mmcv.ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5)
    assert indices.numel() == 0


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_bbox_overlaps_are_intersections_over_areas(mode: str, offset: int) -> None:
    a, b = _boxes(6, 0), _boxes(6, 1)
    expected = torch.zeros(6, 6)
    for i, j in np.ndindex(6, 6):
        union = _iou(a[i].tolist(), b[j].tolist(), offset)
        area_a, area_b = ((x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a[i], b[j]))
        inter = union * (area_a + area_b) / (1 + union)
        expected[i, j] = union if mode == "iou" else inter / area_a
    torch.testing.assert_close(mmcv.ops.bbox_overlaps(a, b, mode=mode, offset=offset), expected)
    aligned = mmcv.ops.bbox_overlaps(a, b, mode=mode, aligned=True, offset=offset)
    torch.testing.assert_close(aligned, expected.diagonal())


# -- RoIs --------------------------------------------------------------------------------------------------------------


def _bilinear(plane: np.ndarray, y: float, x: float) -> float:
    """A sample of a plane, 0 from one pixel outside on, and the border's values up to there."""
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy, fx = y - y0, x - x0
    return float(
        (1 - fy) * ((1 - fx) * plane[y0, x0] + fx * plane[y0, x1])
        + fy * ((1 - fx) * plane[y1, x0] + fx * plane[y1, x1])
    )


def _roi_align_loop(
    maps: Tensor, rois: Tensor, size: int, scale: float, ratio: int, aligned: bool, mode: str = "avg"
) -> Tensor:
    out = torch.zeros(len(rois), maps.shape[1], size, size, dtype=maps.dtype)
    for n, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (v * scale - (0.5 if aligned else 0.0) for v in box)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        ny, nx = (ratio, ratio) if ratio > 0 else (math.ceil(height / size), math.ceil(width / size))
        for c, i, j in np.ndindex(maps.shape[1], size, size):
            samples = [
                _bilinear(
                    maps[int(image), c].numpy(),
                    y1 + height / size * (i + (a + 0.5) / ny),
                    x1 + width / size * (j + (b + 0.5) / nx),
                )
                for a in range(ny)
                for b in range(nx)
            ]
            if samples:
                out[n, c, i, j] = max(samples) if mode == "max" else sum(samples) / len(samples)
    return out


ROIS = torch.tensor([[0, 2.0, 3.0, 21.0, 17.5], [1, 0.0, 0.0, 31.0, 23.0], [1, 7.3, 9.1, 8.2, 9.9], [0, -4, -4, 40, 9]])


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_averages_bilinear_samples_or_takes_their_maximum(ratio: int, aligned: bool, mode: str) -> None:
    maps = torch.randn(2, 3, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = mmcv.ops.roi_align(maps, ROIS.double(), (3, 3), 0.5, ratio, mode, aligned)
    torch.testing.assert_close(got, _roi_align_loop(maps, ROIS.double(), 3, 0.5, ratio, aligned, mode))


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("aligned", [True, False])
def test_gradients_of_roi_align(aligned: bool, mode: str) -> None:
    maps = torch.randn(2, 2, 6, 8, dtype=torch.float64, requires_grad=True)
    rois = ROIS.double()

    def align(x: Tensor) -> Tensor:
        return mmcv.ops.roi_align(x, rois, (2, 3), 0.25, 0, mode, aligned)

    assert torch.autograd.gradcheck(align, (maps,))


def test_roi_align_of_a_roi_without_area_is_nothing() -> None:
    maps = torch.rand(1, 2, 4, 4, requires_grad=True)
    for mode in ("avg", "max"):
        out = mmcv.ops.roi_align(maps, torch.tensor([[0.0, 2, 2, 2, 2]]), (2, 2), 1.0, 0, mode, True)
        assert not out.any()
        (gradient,) = torch.autograd.grad(out.sum(), maps)
        assert not gradient.any()


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("dtype", REDUCED)
def test_roi_align_of_half_precision_maps(dtype: torch.dtype, mode: str) -> None:
    maps = torch.randn(2, 3, 12, 16).to(dtype).requires_grad_()
    got = mmcv.ops.roi_align(maps, ROIS.to(dtype), (3, 3), 0.5, 0, mode, True)
    expected = mmcv.ops.roi_align(maps.detach().float(), ROIS.to(dtype).float(), (3, 3), 0.5, 0, mode, True)
    assert got.dtype is dtype
    torch.testing.assert_close(got.float(), expected.to(dtype).float())
    got.sum().backward()
    assert maps.grad is not None
    assert maps.grad.dtype is dtype


def test_roi_align_of_no_rois() -> None:
    maps = torch.randn(1, 2, 4, 4, requires_grad=True)
    out = mmcv.ops.roi_align(maps, torch.zeros(0, 5), (2, 2), 1.0, 0, "avg", True)
    assert out.shape == (0, 2, 2, 2)
    out.sum().backward()
    assert maps.grad is not None
    assert not maps.grad.any()


POOL_ROIS = torch.tensor(
    [[0, 2.0, 3.0, 21.0, 17.5], [1, 0, 0, 31, 23], [1, 5, 5, 2, 2], [0, -9, -9, -5, -5], [0, 28, 20, 60, 60]]
)


def test_roi_pool_takes_maxima_of_bins_with_both_edges() -> None:
    maps = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    got = mmcv.ops.roi_pool(maps, POOL_ROIS, (3, 2), 0.5)
    expected = torch.zeros_like(got)
    for n, (image, *box) in enumerate(POOL_ROIS.tolist()):
        x1, y1, x2, y2 = box[0] * 0.5, box[1] * 0.5, (box[2] + 1) * 0.5, (box[3] + 1) * 0.5
        for c, i, j in np.ndindex(3, 3, 2):
            if x2 <= x1 or y2 <= y1:
                continue
            rows = range(max(math.floor(y1 + (y2 - y1) * i / 3), 0), min(math.ceil(y1 + (y2 - y1) * (i + 1) / 3), 12))
            columns = range(
                max(math.floor(x1 + (x2 - x1) * j / 2), 0), min(math.ceil(x1 + (x2 - x1) * (j + 1) / 2), 16)
            )
            values = [float(maps[int(image), c, y, x]) for y in rows for x in columns]
            expected[n, c, i, j] = max(values, default=0.0)
    assert torch.equal(got, expected)
    assert got[0].abs().min() > 0
    assert not got[3].any()


def test_gradients_of_roi_pool() -> None:
    maps = torch.randn(2, 2, 6, 8, dtype=torch.float64, requires_grad=True)
    rois = POOL_ROIS.double()
    assert torch.autograd.gradcheck(lambda x: mmcv.ops.roi_pool(x, rois, (2, 2), 0.25), (maps,))


# -- deformable convolutions -------------------------------------------------------------------------------------------


def _deformable_conv(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    *,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    deform_groups: int,
) -> Tensor:
    """By grid_sample: sample every tap's shifted pixels, multiply, and convolve them as a 1×1 convolution."""
    height, width = x.shape[2:]
    kh, kw = weight.shape[2:]
    rows, columns = offset.shape[2:]
    taps = []
    for g, part in enumerate(x.chunk(deform_groups, dim=1)):
        own = offset.chunk(deform_groups, dim=1)[g].unflatten(1, (kh * kw, 2))
        for k, (i, j) in enumerate(np.ndindex(kh, kw)):
            y = torch.arange(rows)[:, None] * stride - padding + i * dilation + own[:, k, 0]
            z = torch.arange(columns) * stride - padding + j * dilation + own[:, k, 1]
            grid = torch.stack([(2 * z + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
            tap = F.grid_sample(part, grid, padding_mode="zeros", align_corners=False)
            if mask is not None:
                tap = tap * mask.chunk(deform_groups, dim=1)[g][:, k : k + 1]
            taps.append(tap)
    stacked = [torch.stack(taps[g * kh * kw : (g + 1) * kh * kw], dim=2) for g in range(deform_groups)]
    samples = torch.cat(stacked, dim=1)  # (B, C, taps, rows, columns)
    return F.conv2d(samples.flatten(1, 2), weight.flatten(1)[:, :, None, None], groups=groups)


GEOMETRIES = [
    dict(stride=1, padding=1, dilation=1, groups=1, deform_groups=1),
    dict(stride=2, padding=2, dilation=2, groups=2, deform_groups=2),
]


def _conv_inputs(geometry: dict[str, int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    x, weight = randn(2, 4, 6, 7), randn(4, 4 // geometry["groups"], 3, 3)
    reach = geometry["dilation"] * 2 + 1
    rows, columns = ((s + 2 * geometry["padding"] - reach) // geometry["stride"] + 1 for s in (6, 7))
    offset = 1.5 * randn(2, geometry["deform_groups"] * 18, rows, columns)
    mask = randn(2, geometry["deform_groups"] * 9, rows, columns).sigmoid()
    return x, offset, mask, weight, randn(4)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_deformable_convolution_samples_at_the_offsets(geometry: dict[str, int]) -> None:
    x, offset, _, weight, _ = _conv_inputs(geometry)
    got = mmcv.ops.deform_conv2d(x, offset, weight, *geometry.values())
    torch.testing.assert_close(got, _deformable_conv(x, offset, weight, None, **geometry))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_modulated_deformable_convolution_weighs_the_samples(geometry: dict[str, int]) -> None:
    x, offset, mask, weight, bias = _conv_inputs(geometry)
    got = mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry.values())
    expected = _deformable_conv(x, offset, weight, mask, **geometry) + bias[:, None, None]
    torch.testing.assert_close(got, expected)
    without = mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, None, *geometry.values())
    torch.testing.assert_close(without, expected - bias[:, None, None])


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradients_of_deformable_convolutions(geometry: dict[str, int]) -> None:
    x, offset, mask, weight, bias = _conv_inputs(geometry)
    upstream = torch.randn_like(mmcv.ops.deform_conv2d(x, offset, weight, *geometry.values()))

    def gradients(function: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in inputs]
        return torch.autograd.grad(function(*leaves), leaves, upstream)

    got = gradients(lambda x, o, w: mmcv.ops.deform_conv2d(x, o, w, *geometry.values()), x, offset, weight)
    expected = gradients(lambda x, o, w: _deformable_conv(x, o, w, None, **geometry), x, offset, weight)
    torch.testing.assert_close(got, expected)

    got = gradients(lambda *a: mmcv.ops.modulated_deform_conv2d(*a, *geometry.values()), x, offset, mask, weight, bias)
    expected = gradients(
        lambda x, o, m, w, b: _deformable_conv(x, o, w, m, **geometry) + b[:, None, None], x, offset, mask, weight, bias
    )
    torch.testing.assert_close(got, expected)


def test_gradient_of_the_weight_alone() -> None:
    x, offset, _, weight, _ = _conv_inputs(GEOMETRIES[0])
    weight.requires_grad_()
    mmcv.ops.deform_conv2d(x, offset, weight, *GEOMETRIES[0].values()).sum().backward()
    leaf = weight.detach().clone().requires_grad_()
    _deformable_conv(x, offset, leaf, None, **GEOMETRIES[0]).sum().backward()
    torch.testing.assert_close(weight.grad, leaf.grad)


@pytest.mark.parametrize("dtype", REDUCED)
def test_deformable_convolution_of_half_precision(dtype: torch.dtype) -> None:
    x, offset, mask, weight, bias = (t.to(dtype) for t in _conv_inputs(GEOMETRIES[0]))
    weight.requires_grad_()
    got = mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *GEOMETRIES[0].values())
    wide = (t.detach().float() for t in (x, offset, mask, weight, bias))
    expected = mmcv.ops.modulated_deform_conv2d(*wide, *GEOMETRIES[0].values())
    torch.testing.assert_close(got.float(), expected, atol=0.1, rtol=1e-2)
    got.sum().backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


# -- losses and attention ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid_focal_loss_and_its_gradient(weighted: bool) -> None:
    logits = (3 * torch.randn(7, 4, dtype=torch.float64)).requires_grad_()
    target = torch.tensor([0, 1, 2, 3, 4, 4, 0])  # 4 is background
    weight = torch.rand(4, dtype=torch.float64) if weighted else None

    def definition(x: Tensor) -> Tensor:
        rows = []
        for n, c in np.ndindex(7, 4):
            p = 1 / (1 + torch.exp(-x[n, c]))
            hit = int(target[n]) == c
            loss = -0.3 * (1 - p) ** 1.7 * torch.log(p) if hit else -0.7 * p**1.7 * torch.log(1 - p)
            factor = weight[target[n]] if weight is not None and int(target[n]) < 4 else 1.0
            rows.append(loss * factor)
        return torch.stack(rows).view(7, 4)

    got = mmcv.ops.sigmoid_focal_loss(logits, target, 1.7, 0.3, weight, "none")
    torch.testing.assert_close(got, definition(logits))
    assert torch.autograd.gradcheck(
        lambda x: mmcv.ops.sigmoid_focal_loss(x, target, 1.7, 0.3, weight, "sum"), (logits,)
    )
    mean = mmcv.ops.sigmoid_focal_loss(logits, target, 1.7, 0.3, weight, "mean")
    torch.testing.assert_close(mean, definition(logits).sum() / 7)


def test_focal_loss_is_finite_for_extreme_logits() -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = mmcv.ops.sigmoid_focal_loss(logits, torch.tensor([0, 0]), 2.0, 0.25, None, "sum")
    torch.testing.assert_close(loss, torch.tensor(0.25 * 200 + 0.75 * 200))
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0, 0], [-0.25, 0.75]]))


def test_deformable_attention_sums_weighted_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 6), (2, 3)]
    value = torch.randn(2, 30, 2, 3, dtype=torch.float64, generator=generator)
    places = torch.rand(2, 5, 2, 2, 4, 2, dtype=torch.float64, generator=generator) * 1.4 - 0.2
    attention = torch.rand(2, 5, 2, 2, 4, dtype=torch.float64, generator=generator)
    starts = torch.tensor([0, 24])

    expected = torch.zeros(2, 5, 2, 3, dtype=torch.float64)
    for b, q, h, level, p in np.ndindex(2, 5, 2, 2, 4):
        rows, columns = shapes[level]
        start = int(starts[level])
        plane = value[b, start : start + rows * columns, h].reshape(rows, columns, 3)
        x, y = (places[b, q, h, level, p] * torch.tensor([columns, rows]) - 0.5).tolist()
        for i, j in np.ndindex(2, 2):
            r, c = math.floor(y) + i, math.floor(x) + j
            if 0 <= r < rows and 0 <= c < columns:
                share = (1 - abs(y - r)) * (1 - abs(x - c))
                expected[b, q, h] += attention[b, q, h, level, p] * share * plane[r, c]

    def attend(value: Tensor, places: Tensor, attention: Tensor) -> Tensor:
        return MultiScaleDeformableAttnFunction.apply(value, torch.tensor(shapes), starts, places, attention, 64)

    torch.testing.assert_close(attend(value, places, attention), expected.flatten(2))
    leaves = tuple(t.requires_grad_() for t in (value, places, attention))
    assert torch.autograd.gradcheck(attend, leaves)


# -- the module itself -------------------------------------------------------------------------------------------------


def test_other_operators_say_how_to_get_them_when_called() -> None:
    features = torch.randn(1, 4, 4, 4)
    with pytest.raises(openmmlab.MissingOperatorError, match=r"'carafe_forward' of mmcv.*compile mmcv"):
        mmcv.ops.carafe(features, torch.rand(1, 25, 8, 8), 5, 1, 2)
    with pytest.raises(NotImplementedError, match="'nms_rotated'"):
        mmcv.ops.nms_rotated(torch.rand(3, 5), torch.rand(3), 0.5)


def test_stand_in_does_not_replace_another_module(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = type(sys)("mmcv._ext")
    monkeypatch.setitem(sys.modules, "mmcv._ext", compiled)
    assert not openmmlab.provide_operators()
    assert sys.modules["mmcv._ext"] is compiled


def test_stand_in_names_itself() -> None:
    assert "torchvision" in mmcv.ops.get_compiler_version()
    assert set(operators.OPERATORS) == set(dir(sys.modules["mmcv._ext"]))
    with pytest.raises(AttributeError):
        sys.modules["mmcv._ext"].__path__  # noqa: B018
