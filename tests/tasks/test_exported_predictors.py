"""Predictors of exported files find what those in PyTorch find, of every task; all in NumPy and Pillow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import visionssm
from tests.tasks.exported_graphs import graph_of
from visionssm.backbones.videomamba import create_video_classifier
from visionssm.data.keypoints import Skeleton
from visionssm.data.suppression import kept_boxes
from visionssm.engine.exported import ExportedFileError
from visionssm.heads.pose import create_pose
from visionssm.heads.yolo import create_yolo
from visionssm.tasks.medical.exported import ArrayPreparation, exported_medical_segmenter
from visionssm.tasks.medical.exported import probabilities as probabilities_of_arrays
from visionssm.tasks.medical.inference import Inference, probabilities
from visionssm.tasks.medical.predictor import MedicalSegmenter
from visionssm.tasks.medical.preparation import INTENSITIES, Preparation
from visionssm.tasks.pose.crops import Crop
from visionssm.tasks.pose.exported import exported_keypoint_finder
from visionssm.tasks.pose.predictor import KeypointFinder
from visionssm.tasks.restoration.exported import exported_restorer
from visionssm.tasks.restoration.photo import quantised
from visionssm.tasks.restoration.predictor import Restorer
from visionssm.tasks.video_classification.exported import ArrayViews, exported_video_classifier
from visionssm.tasks.video_classification.predictor import VideoPredictor
from visionssm.tasks.video_classification.views import Views
from visionssm.tasks.yolo.exported import exported_yolo
from visionssm.tasks.yolo.predictor import YoloPredictor


def image(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def yolo(classes: int) -> YoloPredictor:
    torch.manual_seed(0)
    model = create_yolo("mambayolo_nano", num_classes=classes, depths=(1, 1, 1, 1)).eval()
    for branch in model.head.classes:
        branch[-1].bias.data += 5  # type: ignore[index]  # an untrained network is certain of nothing
        branch[-1].weight.data *= 30  # type: ignore[index]
    for branch in model.head.boxes:
        branch[-1].bias.data.view(4, -1)[:, :2] += 6  # type: ignore[index]  # small boxes
    return YoloPredictor(model, ["a", "b", "c"][:classes], size=64, threshold=0.3)


@pytest.mark.parametrize("nms", [True, False])
def test_exported_yolo_finds_the_boxes_of_the_eager_one(nms: bool) -> None:
    eager = yolo(3 if nms else 1)  # without --nms a point has its best class alone
    exported = replace(
        exported_yolo(graph_of(eager.exportable_with_nms() if nms else eager.exportable())), threshold=0.3
    )
    for size in ((100, 60), (64, 64), (40, 92)):
        with torch.no_grad():
            (expected,) = eager([image(*size)])
        (found,) = exported([image(*size)])
        assert len(expected.scores) > 5
        assert found.numbers.tolist() == expected.numbers.tolist()
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=2e-3)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_exported_yolo_of_one_size_fills_images_up_to_it_and_refuses_larger_squares() -> None:
    eager = yolo(1)
    exported = exported_yolo(graph_of(eager.exportable(), fixed=True))
    (found,) = exported([image(100, 60)])
    assert (found.boxes <= [100, 60, 100, 60]).all()
    with pytest.raises(ValueError, match="--dynamic"):
        replace(exported, size=128)([image(100, 60)])


def test_threshold_below_that_of_a_file_with_suppression_is_refused() -> None:
    exported = exported_yolo(graph_of(yolo(3).exportable_with_nms()))
    assert exported.threshold == 0.3
    with pytest.raises(ValueError, match=r"threshold=0.1 is below 0.3.*without --nms"):
        replace(exported, threshold=0.1)


def test_boxes_are_kept_as_torchvision_keeps_them() -> None:
    from torchvision.ops import batched_nms

    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(400, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + torch.rand(400, 2, generator=generator) * 40 + 20], 1)
    scores, labels = torch.rand(400, generator=generator), torch.randint(3, (400,), generator=generator)
    expected = batched_nms(boxes, scores, labels, 0.5)
    found = kept_boxes(boxes.numpy(), scores.numpy(), labels.numpy(), 0.5)
    assert 20 < len(expected) < 300
    assert found.tolist() == expected.tolist()
    assert kept_boxes(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)).shape == (0,)


@pytest.mark.parametrize("flip_test", [True, False])
def test_exported_pose_estimator_finds_the_points_of_the_eager_one(flip_test: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_pose("hrvmamba_nano_pose", num_keypoints=4).eval()
    skeleton = Skeleton(("a", "left_b", "right_b", "c"), ((1, 2),), ((0, 1), (0, 2)), (0.05,) * 4)
    listed = {"file": "photo.png", "objects": [{"box": [5, 8, 60, 70], "score": 0.9}, {"box": [30, 0, 90, 50]}]}
    (tmp_path / "boxes.json").write_text(json.dumps({"predictions": [listed]}))
    image(96, 80).save(tmp_path / "photo.png")
    eager = KeypointFinder(model, skeleton, ["person"], Crop((64, 32)), flip_test)
    exported = replace(exported_keypoint_finder(graph_of(eager.exportable())), boxes=tmp_path / "boxes.json")
    eager = replace(eager, boxes=tmp_path / "boxes.json")
    (found,), (expected,) = (x([x.read(tmp_path / "photo.png")]) for x in (exported, eager))
    assert expected.points.shape == (2, 4, 3)
    np.testing.assert_allclose(found.points, expected.points, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert found.plain()["objects"][0].keys() == expected.plain()["objects"][0].keys()
    with pytest.raises(ValueError, match="--boxes"):
        replace(exported, boxes=None)([exported.read(tmp_path / "photo.png")])


PREPARATIONS: list[dict[str, Any]] = [
    *({"intensity": name, "window": (-50.0, 120.0)} for name in INTENSITIES),
    {"intensity": "zscore", "percentiles": (1.0, 97.5), "spacing": (2.0, 1.5, 0.7)},
    {"intensity": "nonzero", "size": (9, 14), "spacing": (2.0, 1.5, 0.7)},
    {"intensity": "window", "window": (0.0, 80.0), "size": (9, 14), "order": 3},
    {"intensity": "minmax", "spacing": (1.3, 2.0, 2.0), "size": (12, 10), "order": 3},
]


@pytest.mark.parametrize("settings", PREPARATIONS, ids=lambda x: "-".join(map(str, x.values())))
@pytest.mark.parametrize("is_volume", [True, False])
def test_arrays_are_prepared_as_tensors_are_and_come_back_likewise(settings: dict[str, Any], is_volume: bool) -> None:
    random = np.random.default_rng(0)
    sides = (5, 11, 13) if is_volume else (11, 13)
    pixels = (random.normal(40, 60, (2, *sides)) * (random.random((2, *sides)) > 0.3)).astype(np.float32)
    spacing = (1.0,) * len(sides)
    eager, arrays = Preparation(channels=2, **settings), ArrayPreparation(channels=2, **settings)
    expected = eager.image(pixels, spacing)
    found = arrays.image(pixels, spacing)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5 * float(expected.abs().max()))
    scores = random.random((3, *expected.shape[1:])).astype(np.float32)
    for some in (scores, scores[:1]):
        back = eager.restored(torch.from_numpy(some), sides, 0.6).numpy()
        assert (arrays.restored(some, sides, 0.6) == back).mean() > 0.998


@pytest.mark.parametrize(
    ("dims", "sides", "how"),
    [
        (2, (20, 17), Inference((8, 16), 0.5, (0, 1))),
        (2, (5, 30), Inference((8, 16), 0.25, (1,))),
        (2, (3, 12, 9), Inference((8, 8), 0.0, batch=2)),
        (3, (9, 8, 17), Inference((8, 8, 8), 0.6, (0, 2))),
        (2, (7, 9), Inference(None, mirror=(0,))),
    ],
)
def test_windows_over_arrays_are_blended_as_monai_blends_them(
    dims: int, sides: tuple[int, ...], how: Inference
) -> None:
    def network(x: torch.Tensor) -> torch.Tensor:  # what it says of a pixel depends on where that is in the window
        place = torch.linspace(-1, 2, x.shape[-1])
        return torch.cat([x * place, x.flip(-1)], 1)

    inputs = torch.randn(1, *sides, generator=torch.Generator().manual_seed(0))
    expected = probabilities(network, inputs, dims, how).numpy()
    found = probabilities_of_arrays(
        lambda x: network(torch.from_numpy(x)).softmax(1).numpy(), inputs.numpy(), dims, how
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def _undecided(model: Any) -> None:
    """Scores about zero, that is a probability of a half."""
    with torch.no_grad():
        model.final_conv.weight.mul_(20)
        model.final_conv.bias.copy_(-model(torch.randn(1, 1, 16, 16)).mean((0, 2, 3)) + model.final_conv.bias)


@pytest.mark.parametrize("num_classes", [1, 2])
def test_exported_medical_network_tells_the_classes_of_the_eager_one(num_classes: int, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    torch.manual_seed(0)
    tiny: dict[str, Any] = {"dim": 8, "depths": (1,), "decoder_depths": (1,)}
    model = visionssm.create_segmenter("vmunet_nano", num_classes=num_classes, in_chans=1, **tiny).eval()
    how = Inference((16, 16), 0.5, (0,), threshold=0.45)
    _undecided(model)
    eager = MedicalSegmenter(model, ("background", "liver"), Preparation(size=(24, 20)), how)
    exported = exported_medical_segmenter(graph_of(eager.exportable()))
    assert exported.inference == replace(how, threshold=0.45 if num_classes == 1 else 0.5)
    volume = np.random.default_rng(0).normal(0, 9, (20, 18, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([1.0, 2.0, 3.0, 1.0])), tmp_path / "case.nii.gz")
    image(32, 28).save(tmp_path / "photo.png")
    for name in ("case.nii.gz", "photo.png"):
        with torch.no_grad():
            (expected,) = eager([eager.read(tmp_path / name)])
        (found,) = exported([exported.read(tmp_path / name)])
        assert 0 < (expected.numbers == 1).mean() < 1, name
        assert found.numbers.shape == expected.numbers.shape
        assert (found.numbers == expected.numbers).mean() > 0.995
        assert len(found.rows()) == 1


def test_exported_restorer_writes_the_picture_of_the_eager_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = visionssm.create_restorer("mambair_nano_x2").eval()
    eager = Restorer(model, tile=16, overlap=8)
    exported = exported_restorer(graph_of(eager.exportable()))
    assert (exported.tile, exported.overlap, exported.scale) == (16, 8, 2)
    coloured = image(28, 20)
    for name, picture in {"rgb": coloured, "grey": coloured.convert("L"), "clear": coloured.convert("RGBA")}.items():
        picture.save(tmp_path / f"{name}.png")
        with torch.no_grad():
            (expected,) = eager([eager.read(tmp_path / f"{name}.png")])
        (found,) = exported([exported.read(tmp_path / f"{name}.png")])
        assert found.pixels.shape == expected.pixels.shape == (40, 56, {"rgb": 3, "grey": 1, "clear": 4}[name])
        assert np.abs(found.pixels.astype(int) - expected.pixels).max() <= 1
    exported([exported.read(tmp_path / "rgb.png")])[0].save_beside(tmp_path / "rgb.png")
    assert Image.open(tmp_path / "rgb.png.restored.png").size == (56, 40)


def test_file_whose_images_are_of_another_scale_than_it_says_is_refused(tmp_path: Path) -> None:
    restorer = Restorer(visionssm.create_restorer("mambair_nano_denoise").eval())
    exported = replace(exported_restorer(graph_of(restorer.exportable())), scale=2)
    image(28, 20).save(tmp_path / "photo.png")
    with pytest.raises(ExportedFileError, match=r"of shape \(3, 20, 28\), where \(3, 40, 56\) was expected"):
        exported([exported.read(tmp_path / "photo.png")])


def test_restorer_that_was_exported_for_one_size_takes_larger_images_in_tiles_of_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    eager = Restorer(visionssm.create_restorer("mambair_nano_denoise").eval())
    graph = graph_of(replace(eager.exportable(), shape=(1, 3, 16, 16)), fixed=True)
    exported = exported_restorer(graph)
    image(40, 24).save(tmp_path / "large.png")
    image(12, 24).save(tmp_path / "narrow.png")
    (found,) = exported([exported.read(tmp_path / "large.png")])
    photo = exported.read(tmp_path / "large.png")
    with torch.no_grad():
        (expected,) = replace(eager, tile=16, overlap=8)([photo])
    assert np.abs(found.pixels.astype(int) - expected.pixels).max() <= 1
    assert found.pixels.dtype == quantised(photo.pixels, 8).dtype
    with pytest.raises(ValueError, match="--dynamic"):
        exported([exported.read(tmp_path / "narrow.png")])


@pytest.mark.parametrize("channels", [3, 1])
def test_exported_video_classifier_tells_the_classes_of_the_eager_one(channels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_video_classifier(
        "videomamba_nano", num_classes=5, num_frames=4, img_size=32, in_chans=channels, depth=1
    ).eval()
    spread = (0.45,) * channels, (0.22,) * channels
    views = Views(frames=4, size=32, channels=channels, clips=2, crops=3, mean=spread[0], std=spread[1])
    eager = VideoPredictor(model, list("abcde"), views, top_k=3)
    exported = replace(exported_video_classifier(graph_of(eager.exportable())), top_k=3)
    frames = np.stack([np.asarray(image(44, 36, seed)) for seed in range(9)])
    np.save(tmp_path / "clip.npy", frames)
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number:02d}.png")
    assert (
        exported.samples_below(tmp_path)
        == eager.samples_below(tmp_path)
        == [tmp_path / "clip.npy", tmp_path / "frames"]
    )
    for name in ("clip.npy", "frames"):
        samples = [x.read(tmp_path / name) for x in (exported, eager)]
        levels = np.abs(samples[0].inputs - samples[1].inputs.numpy()) * 255 * 0.22
        assert levels.max() < 2.01, "both round twice, and PyTorch's weights have fewer bits"
        assert levels.mean() < 0.05
        (expected,) = eager([samples[1]])  # outside of inference mode, as in a notebook
        (found,) = exported([samples[0]])
        assert [x for x, _ in found.best] == [x for x, _ in expected.best]
        np.testing.assert_allclose([x for _, x in found.best], [x for _, x in expected.best], atol=2e-3)


@pytest.mark.parametrize("channels", [3, 1])
def test_levels_of_a_normalised_clip_are_those_of_its_frames(channels: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 6, 5, channels), dtype=np.uint8)
    mean, std = np.float32([0.4, 0.5, 0.6][:channels]), np.float32([0.2, 0.25, 0.3][:channels])
    views = ArrayViews(channels=channels, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    found = views.levels(((frames.astype(np.float32) / 255 - mean) / std).transpose(3, 0, 1, 2))
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.broadcast_to(frames, (4, 6, 5, 3)))


def test_views_of_a_file_are_bounded_like_those_of_a_checkpoint() -> None:
    with pytest.raises(ValueError, match="clips must be a whole number from 1 to"):
        ArrayViews(clips=10**9)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"patch": "[1000000, 1000000]"}, "sides of a window"),
        ({"patch": '["a", "b"]'}, "sides of a window"),
        ({"patch": "[8, 8, 8]"}, "3 sides"),
        ({"overlap": "0.9999999"}, "overlap"),
        ({"mirror": "[5]"}, "mirror"),
        ({"preparation": '{"size": [1000000, 1000000]}'}, "size"),
        ({"preparation": '{"run": "something"}'}, "prepared"),
        ({"dims": "7"}, "dims=7"),
    ],
)
def test_absurd_facts_of_a_medical_file_are_refused(change: dict[str, str], told: str) -> None:
    tiny: dict[str, Any] = {"dim": 8, "depths": (1,), "decoder_depths": (1,)}
    model = visionssm.create_segmenter("vmunet_nano", num_classes=2, in_chans=1, **tiny).eval()
    graph = graph_of(MedicalSegmenter(model, ("background", "liver"), Preparation(), Inference()).exportable())
    with pytest.raises(ExportedFileError, match=told):
        exported_medical_segmenter(replace(graph, about={**graph.about, **change}))
