"""Networks of the medical task are exported as probabilities, and their maps can be looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import visionssm
from visionssm.cli.export import export, make_example
from visionssm.tasks.medical.export import difference_beside_eager, exportable_segmenter
from visionssm.tasks.medical.inference import Inference
from visionssm.tasks.medical.predictor import MedicalSegmenter
from visionssm.tasks.medical.preparation import Preparation
from visionssm.tasks.medical.scan import Scan

CLASSES = ("background", "liver")
TINY: dict[str, Any] = {"dim": 8, "depths": (1,), "decoder_depths": (1,)}
TOKENS = {"patch": (8, 16, 16), "widths": (4, 80), "strides": (1, 4), "blocks": (1,)}  # 2·4·4 pixels, 80 channels


def predictor(name: str, num_classes: int = 2, **changes: Any) -> MedicalSegmenter:
    torch.manual_seed(0)
    model = visionssm.create_segmenter(name, num_classes=num_classes, in_chans=1, **changes).eval()
    return MedicalSegmenter(model, CLASSES, Preparation(), Inference())


@pytest.mark.parametrize("num_classes", [1, 2])
def test_archive_gives_probabilities_of_the_images_sides_and_says_how_images_are_prepared(
    num_classes: int, tmp_path: Path
) -> None:
    found = predictor("vmunet_nano", num_classes, **TINY)
    path = tmp_path / "best.pt2"
    written = export(found.exportable(), path, "pt2", size=(21, 18))
    assert written.difference <= 1e-4
    about = {"about.json": ""}
    program = torch.export.load(path, extra_files=about).module()
    image = torch.randn(1, 1, 21, 18)
    with torch.no_grad():
        logits = found.model(image)
        y = program(image)
    expected = logits.sigmoid() if num_classes == 1 else logits.softmax(1)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    facts = json.loads(about["about.json"])
    assert json.loads(facts["preparation"])["intensity"] == "zscore"
    assert json.loads(facts["classes"]) == {"0": "background", "1": "liver"}
    assert ("threshold" in facts) == (num_classes == 1)


def test_network_of_one_patch_is_exported_at_that_patch_with_an_open_batch_alone() -> None:
    exportable = predictor("umamba_enc3d_nano", plan=TOKENS).exportable()
    assert dict(exportable.axes) == {0: "batch"}
    assert make_example(exportable, dynamic=True, size=None, batch_size=1).shape == (2, 1, 8, 16, 16)
    with pytest.raises(ValueError, match=r"--size 32 32: .* it takes inputs \(1, 1, 8, 16, 16\)"):
        make_example(exportable, dynamic=False, size=(32, 32), batch_size=1)


def test_volumes_have_a_depth_that_may_be_given_and_images_have_none() -> None:
    volumes, images = (predictor(name).exportable() for name in ("umamba_enc3d_nano", "umamba_enc2d_nano"))
    assert make_example(volumes, dynamic=False, size=(9, 17, 21), batch_size=1).shape == (1, 1, 9, 17, 21)
    with pytest.raises(ValueError, match="--size 9 17 21: this network has no depth"):
        make_example(images, dynamic=False, size=(9, 17, 21), batch_size=1)


def test_file_of_an_ill_conditioned_network_may_be_as_far_from_float64_as_eager_is_and_no_farther() -> None:
    torch.manual_seed(0)
    exact = torch.rand(1, 2, 8, 8, dtype=torch.float64)
    noise = 1e-3 * torch.randn(2, *exact.shape)
    eager = exact.float() + noise[0]
    assert difference_beside_eager([exact.float() + noise[1]], (exact, eager)) == 0
    assert difference_beside_eager([exact.float() + 10 * noise[1]], (exact, eager)) > 1e-3
    assert difference_beside_eager([exact.float() + noise[1]], (exact, exact.float())) > 1e-4


def test_maps_of_an_image_and_of_the_middle_slice_of_a_volume_can_be_looked_at() -> None:
    view = predictor("vmunet_nano").view()
    pixels = np.random.default_rng(0).normal(size=(1, 3, 40, 50)).astype(np.float32)
    image = view.prepare(Scan(pixels, (1.0, 1.0, 1.0)), None)
    middle = view.prepare(Scan(pixels[:, 1], (1.0, 1.0)), None)
    assert image.shape == middle.shape == (1, 1, 40, 50)
    assert torch.corrcoef(torch.stack([image.flatten(), middle.flatten()]))[0, 1] > 0.999
    maps: Any = view.maps(image)
    assert [tuple(level.shape[2:]) for level in maps] == [(8, 8), (4, 4), (2, 2), (2, 2)]
    picture = view.picture(image)
    assert picture.shape == (40, 50, 3)
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_networks_of_volumes_have_no_pictures_of_maps() -> None:
    with pytest.raises(ValueError, match="the network is of volumes"):
        predictor("umamba_enc3d_nano").view()


OPEN = (
    "vmunet_nano",
    "umamba_enc2d_nano",
    "umamba_enc3d_nano",
    "segmamba_nano",
    "swinumamba_nano",
    "swinumamba_d_nano",
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize("name", OPEN)
def test_networks_are_exported_with_open_batch_and_sides(name: str, kind: str, tmp_path: Path) -> None:
    model = visionssm.create_segmenter(name, num_classes=2, in_chans=1).eval()
    patch = tuple(2 * step for step in model.stride)
    exportable = exportable_segmenter(model, CLASSES, Preparation(), Inference(patch=patch))
    written = export(exportable, tmp_path / f"best.{kind}", kind, dynamic=True)
    assert written.open_axes == tuple(exportable.axes.values())
    assert written.difference <= 1e-4


@pytest.mark.slow
def test_computed_routes_of_mhsvm_are_exported_with_open_sides(tmp_path: Path) -> None:
    written = export(predictor("mhsvm_4h_nano", **TINY).exportable(), tmp_path / "best.onnx", "onnx", dynamic=True)
    assert written.open_axes == ("batch", "height", "width")
    assert written.difference == 0  # beyond what float32 itself explains, see difference_beside_eager


@pytest.mark.slow
def test_archive_of_scans_across_pieces_takes_sides_whose_pixels_the_pieces_do_not_divide(tmp_path: Path) -> None:
    found = predictor("segmamba_nano")
    written = export(found.exportable(), tmp_path / "best.pt2", "pt2", dynamic=True, size=(16, 24, 32))
    assert written.difference <= 1e-4
    program = torch.export.load(tmp_path / "best.pt2").module()
    for sides in ((24, 40, 56), (17, 23, 9)):  # 105 and 18 pixels of the deepest map, which is cut into four pieces
        volume = torch.randn(1, 1, *sides)
        with torch.no_grad():
            torch.testing.assert_close(program(volume), found.model(volume).softmax(1), rtol=1e-4, atol=1e-5)
