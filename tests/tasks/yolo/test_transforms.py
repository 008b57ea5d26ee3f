"""Letter box, Mosaic, scale and shift, colours and mirror: pixels and boxes stay together."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from visionssm.tasks.yolo.transforms import (
    GREY,
    Scene,
    letterboxed,
    mirrored,
    mosaic,
    recoloured,
    scaled,
    zoomed,
)


def scene(height: int, width: int, boxes: list[list[float]], seed: int = 0) -> Scene:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, height, width, generator=generator)
    return Scene(image, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(1, len(boxes) + 1))


def content(image: Tensor, box: Tensor) -> Tensor:
    """Pixels inside of a box with whole coordinates."""
    left, top, right, bottom = box.round().int().tolist()
    return image[:, top:bottom, left:right]


@pytest.mark.parametrize("centre", [(64, 64), (40, 90), (32, 32), (96, 96), (33, 95)])
def test_mosaic_keeps_the_pixels_of_every_box(centre: tuple[int, int]) -> None:
    """Sources are as large as the side, so that nothing is scaled; two are not square."""
    sources = [
        scene(64, 64, [[3, 5, 20, 30], [40, 40, 64, 64]], 0),
        scene(48, 64, [[0, 0, 30, 20]], 1),
        scene(64, 32, [[10, 2, 20, 60], [0, 50, 32, 64]], 2),
        scene(64, 64, [], 3),
    ]
    result = mosaic(sources, 64, centre)
    assert result.image.shape == (3, 128, 128)
    offsets = [
        (centre[0] - 64, centre[1] - 64),
        (centre[0], centre[1] - 48),
        (centre[0] - 32, centre[1]),
        centre,
    ]
    kept = 0
    for source, (x, y) in zip(sources, offsets, strict=True):
        for box, label in zip(source.boxes, source.labels, strict=True):
            moved = box + torch.tensor([x, y, x, y])
            visible = moved.clamp(0, 128)
            if (visible[2:] <= visible[:2]).any():
                continue
            assert result.boxes[kept].tolist() == visible.tolist()
            assert result.labels[kept] == label
            back = visible - torch.tensor([x, y, x, y])
            assert torch.equal(content(result.image, visible), content(source.image, back))
            kept += 1
    assert kept == len(result.boxes) >= 3
    beyond = torch.ones(128, 128, dtype=torch.bool)
    for source, (x, y) in zip(sources, offsets, strict=True):
        height, width = source.image.shape[1:]
        beyond[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = False
    assert (result.image[:, beyond] == GREY).all()


def test_mosaic_scales_sources_of_other_sizes_together_with_their_boxes() -> None:
    sources = [scene(20, 40, [[10, 5, 20, 20]], n) for n in range(4)]
    result = mosaic(sources, 64, (64, 64))
    assert result.boxes.tolist() == [
        [16, 40, 32, 64],
        [80, 40, 96, 64],
        [16, 72, 32, 96],
        [80, 72, 96, 96],
    ]
    assert torch.equal(result.image[:, 32:64, :64], scaled(sources[0].image, 64))


@pytest.mark.parametrize("size", [(48, 64), (333, 500), (640, 3), (5, 7), (1, 1), (100, 100)])
def test_letter_box_and_its_inverse_are_the_identity_on_boxes(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    height, width = size
    corners = torch.rand(30, 2, 2, generator=generator).sort(1).values * torch.tensor([width, height])
    boxes = corners.flatten(1)
    box = letterboxed(torch.rand(3, height, width), 96)
    assert max(box.image.shape[1:]) == 96
    assert not any(side % 32 for side in box.image.shape[1:])
    torch.testing.assert_close(box.outside(box.inside(boxes)), boxes, atol=1e-4, rtol=1e-5)
    inside = box.inside(torch.tensor([[0.0, 0.0, width, height]]))[0]
    filled = box.image.clone()
    filled[:, : int(inside[3].round()), : int(inside[2].round())] = GREY
    assert (filled == GREY).all(), "all but the image is grey"
    beyond = torch.tensor([[-50.0, -50.0, 1e6, 1e6]])
    assert box.outside(beyond).tolist() == [[0, 0, width, height]]


def test_letter_box_of_an_image_that_fits_changes_no_pixel() -> None:
    image = torch.rand(3, 40, 64)
    box = letterboxed(image, 64)
    assert box.image.shape == (3, 64, 64)
    assert torch.equal(box.image[:, :40], image)
    assert letterboxed(image, 64, 8).image.shape == (3, 40, 64)
    assert letterboxed(image, 64, 8, square=True).image.shape == (3, 64, 64)


def test_scaling_is_pillows() -> None:
    array = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    image = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    for side in (40, 180):
        small = Image.fromarray(array).resize((side, round(50 * side / 90)), Image.Resampling.BILINEAR)
        expected = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1) / 255
        assert (scaled(image, side) - expected).abs().max() < 1.5 / 255


def test_a_scale_of_one_around_the_middle_cuts_out_the_pixels_as_they_are() -> None:
    source = scene(128, 128, [[40, 50, 70, 90], [0, 0, 20, 20]])
    result = zoomed(source, 64, 1.0, (32, 32))
    torch.testing.assert_close(result.image, source.image[:, 32:96, 32:96], atol=1e-5, rtol=0)
    assert result.boxes.tolist() == [[8, 18, 38, 58]], "the other box is outside"
    assert result.labels.tolist() == [1]


@pytest.mark.parametrize("scale", [0.5, 1.25])
def test_boxes_stay_on_their_pixels_under_scale_and_shift(scale: float) -> None:
    image = torch.full((3, 80, 80), 0.2)
    image[:, 24:40, 20:48] = 1
    result = zoomed(Scene(image, torch.tensor([[20.0, 24, 48, 40]]), torch.tensor([1])), 96, scale, (50.0, 44.0))
    rows, columns = (result.image[0] > 0.6).nonzero(as_tuple=True)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert result.boxes[0].tolist() == pytest.approx([x.item() for x in seen], abs=1)
    assert result.image[0, -1, -1].item() == pytest.approx(GREY)


@pytest.mark.parametrize(
    "box, kept",
    [
        ([-17.9, 10, 2.1, 30], True),  # 10.5 % of the area is left
        ([-18.1, 10, 1.9, 30], False),
        ([10, 10, 12, 30], False),  # 2 pixels wide
        ([10, 10, 12.5, 30], True),
    ],
)
def test_objects_of_which_too_little_is_left_are_dropped(box: list[float], kept: bool) -> None:
    moved = [x + 20 for x in box]
    result = zoomed(scene(104, 104, [moved]), 64, 1.0, (32, 32))
    assert len(result.boxes) == kept


def test_objects_a_hundred_times_as_long_as_wide_are_dropped() -> None:
    assert len(zoomed(scene(640, 640, [[5, 5, 9, 400], [5, 5, 9, 410]]), 640, 1.0, (320, 320)).boxes) == 1


def test_a_mirror_image_of_a_mirror_image_is_the_image() -> None:
    source = scene(20, 30, [[3, 5, 12, 20]])
    once = mirrored(source)
    assert torch.equal(content(once.image, once.boxes[0]), content(source.image, source.boxes[0]).flip(2))
    twice = mirrored(once)
    assert torch.equal(twice.image, source.image)
    assert torch.equal(twice.boxes, source.boxes)


@pytest.mark.parametrize("gains", [(1.0, 1.0, 1.0), (1.3, 1.0, 1.0), (0.9, 1.7, 0.6), (1.015, 0.3, 1.4)])
def test_colours_are_changed_as_by_the_standard_library(gains: tuple[float, float, float]) -> None:
    image = torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(0))
    image[:, 0, 0], image[:, 0, 1], image[:, 0, 2] = 0.0, 1.0, 0.5
    image[:, 0, 3] = torch.tensor([1.0, 0, 0])
    result = recoloured(image, gains)
    for row in range(6):
        for column in range(7):
            hue, saturation, value = colorsys.rgb_to_hsv(*image[:, row, column].tolist())
            changed = hue * gains[0] % 1, min(1.0, saturation * gains[1]), min(1.0, value * gains[2])
            expected = colorsys.hsv_to_rgb(*changed)
            assert result[:, row, column].tolist() == pytest.approx(expected, abs=2e-5)
