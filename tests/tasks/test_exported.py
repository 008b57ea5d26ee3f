"""Exported files say what they are, and are applied to images without PyTorch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

import visionssm
from visionssm.cli import export, predict
from visionssm.integrations.export import description
from visionssm.prediction import load_exported, load_predictor, registered_classifier
from visionssm.prediction.exported import ExportedFileError

ROOT = Path(__file__).parents[2]
WITHOUT = """
import sys
for name in ("torch", "timm", "torchvision", "numba", "triton", "mmengine", "cv2"):
    sys.modules[name] = None
from visionssm.cli import main
sys.exit(main(sys.argv[1:]))
"""
PREPARED: dict[str, Any] = {"input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}
PREPARED |= {"crop_pct": 1.0, "crop_mode": "center"}


def without_torch(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`visionssm …` in a process in which importing PyTorch raises."""
    run = [sys.executable, "-c", WITHOUT, *map(str, arguments)]
    return subprocess.run(run, capture_output=True, text=True, cwd=ROOT)


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    outputs: dict[str, int],
    about: dict[str, str],
    *,
    sides: Sequence[int | str] = ("H", "W"),
    channels: int = 3,
    constants: Sequence[onnx.TensorProto] = (),
) -> Path:
    """A small graph from `image` to outputs of given types, with what it says of itself."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, *sides])
    given = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    graph = helper.make_graph(list(nodes), "graph", [image], given, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, about)
    onnx.save(model, path)
    return path


def mean_colours(path: Path, **facts: Any) -> Path:
    """A classifier whose scores are the means of red, green and blue."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["scores"]),
    ]
    about = description(["red", "green", "blue"], **({"task": "classification"} | PREPARED))
    about |= {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    return write(path, nodes, {"scores": TensorProto.FLOAT}, {k: x for k, x in about.items() if x != "null"})


def strongest_colours(path: Path, sides: Sequence[int | str] = ("H", "W"), classes: int = 3) -> Path:
    """A segmentation model that names the strongest colour of every pixel."""
    nodes = [helper.make_node("ArgMax", ["image"], ["classes"], axis=1, keepdims=0)]
    about = description(["red", "green", "blue"][:classes], task="segmentation")
    return write(path, nodes, {"classes": TensorProto.INT64}, about, sides=sides)


def two_objects(path: Path, labels: Sequence[int] = (1, 2)) -> Path:
    """A detector that finds the same two objects in every image, of scores 0.9 and 0.3."""
    values = {
        "boxes": helper.make_tensor("boxes", TensorProto.FLOAT, [2, 4], [1, 2, 5, 6, 0, 0, 3, 3]),
        "scores": helper.make_tensor("scores", TensorProto.FLOAT, [2], [0.9, 0.3]),
        "labels": helper.make_tensor("labels", TensorProto.INT64, [2], labels),
    }
    nodes = [helper.make_node("Constant", [], [name], value=value) for name, value in values.items()]
    kinds = {"boxes": TensorProto.FLOAT, "scores": TensorProto.FLOAT, "labels": TensorProto.INT64}
    return write(path, nodes, kinds, description(["cat", "dog"], first=1, task="detection"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    pixels[..., 1] |= 128
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_command_predicts_where_pytorch_cannot_be_imported(tmp_path: Path, photo: Path) -> None:
    """Of the three tasks: what is printed, the JSON, pictures and masks."""
    files = [
        mean_colours(tmp_path / "c.onnx"),
        strongest_colours(tmp_path / "s.onnx"),
        two_objects(tmp_path / "d.onnx"),
    ]
    found = {}
    for file in files:
        out = tmp_path / f"{file.stem}.json"
        masks = ["--masks", tmp_path / "masks"] if file.stem == "s" else []
        ended = without_torch("predict", file, photo, "--out", out, "--pictures", tmp_path / file.stem, *masks)
        assert ended.returncode == 0, ended.stderr
        assert str(photo) in ended.stdout
        assert len(list((tmp_path / file.stem).glob("*.png"))) == 1
        (found[file.stem],) = json.loads(out.read_text())["predictions"]
    pixels = np.asarray(Image.open(photo)).astype(np.float64) / 255
    assert found["c"]["classes"][0]["class"] == "green"
    strongest = pixels.argmax(-1)
    shares = {x["class"]: x["share"] for x in found["s"]["classes"]}
    assert shares == {name: pytest.approx((strongest == i).mean()) for i, name in enumerate(("red", "green", "blue"))}
    (mask,) = (tmp_path / "masks").glob("*.png")
    assert (np.asarray(Image.open(mask)) == strongest).all()
    assert found["d"]["objects"] == [{"class": "cat", "score": pytest.approx(0.9), "box": [1, 2, 5, 6]}]


def three_boxes(path: Path) -> Path:
    """A Mamba-YOLO that finds the same boxes in every image: the second is hidden by the first, the third unsure."""
    values = {
        "boxes": helper.make_tensor("boxes", TensorProto.FLOAT, [1, 3, 4], [4, 8, 20, 32, 4, 8, 20, 31, 0, 0, 9, 9]),
        "scores": helper.make_tensor("scores", TensorProto.FLOAT, [1, 3], [0.9, 0.8, 0.1]),
        "labels": helper.make_tensor("labels", TensorProto.INT64, [1, 3], [1, 1, 0]),
    }
    nodes = [helper.make_node("Constant", [], [name], value=value) for name, value in values.items()]
    kinds = {"boxes": TensorProto.FLOAT, "scores": TensorProto.FLOAT, "labels": TensorProto.INT64}
    return write(path, nodes, kinds, description(["cat", "person"], task="yolo", size=64, multiple=32))


def coarse_maps(path: Path) -> Path:
    """A pose estimator whose maps are the colours of crops."""
    nodes = [helper.make_node("AveragePool", ["image"], ["heatmaps"], kernel_shape=[4, 4], strides=[4, 4])]
    names = ["nose", "left_eye", "right_eye"]
    skeleton = {"names": names, "flip_pairs": [[1, 2]], "edges": [[0, 1]], "sigmas": [0.1] * 3}
    crop = {"size": [64, 32], "padding": 1.25}
    about = description(["person"], first=1, task="pose", skeleton=skeleton, flip_test=True, crop=crop)
    return write(path, nodes, {"heatmaps": TensorProto.FLOAT}, about)


def bright_places(path: Path, dims: int) -> Path:
    """A medical network that finds its foreground where an image or a volume is bright."""
    nodes = [helper.make_node("Sigmoid", ["image"], ["probabilities"])]
    prepare = {"channels": 1, "intensity": "zscore"}
    facts = {"task": "medical", "dims": dims, "preparation": prepare, "patch": [8] * dims, "overlap": 0.5}
    about = description(["background", "bone"], **facts, mirror=[0], threshold=0.5)
    sides = ("D", "H", "W")[-dims:]
    return write(path, nodes, {"probabilities": TensorProto.FLOAT}, about, sides=sides, channels=1)


def doubled(path: Path) -> Path:
    """A restorer that repeats pixels."""
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2])
    nodes = [helper.make_node("Resize", ["image", "", "scales"], ["restored"], mode="nearest")]
    about = description((), task="restoration", scale=2, tile=8, overlap=4)
    return write(path, nodes, {"restored": TensorProto.FLOAT}, about, constants=[scales])


def mean_of_clips(path: Path) -> Path:
    """A video classifier whose scores are the means of red, green and blue."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["scores"]),
    ]
    views = {"frames": 4, "size": 16, "channels": 3, "clips": 2, "crops": 1, "mean": [0.5] * 3, "std": [0.5] * 3}
    about = description(["red", "green", "blue"], task="video_classification", **views)
    return write(path, nodes, {"scores": TensorProto.FLOAT}, about, sides=(4, 16, 16))


def test_every_other_task_is_applied_where_pytorch_cannot_be_imported(tmp_path: Path, photo: Path) -> None:
    import nibabel

    (tmp_path / "boxes.json").write_text(
        json.dumps({"predictions": [{"file": str(photo), "objects": [{"box": [3, 2, 25, 19]}]}]})
    )
    pixels = np.asarray(Image.open(photo))
    np.save(tmp_path / "clip.npy", np.stack([pixels] * 6))
    volume = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "case.nii.gz")
    commands: dict[str, list[str | Path]] = {
        "yolo": [three_boxes(tmp_path / "y.onnx"), photo, "--pictures", tmp_path / "drawn"],
        "pose": [coarse_maps(tmp_path / "p.onnx"), photo, "--boxes", tmp_path / "boxes.json"],
        "image": [bright_places(tmp_path / "i.onnx", 2), photo, "--masks", tmp_path / "masks"],
        "volume": [bright_places(tmp_path / "v.onnx", 3), tmp_path / "case.nii.gz", "--masks", tmp_path / "masks"],
        "restored": [doubled(tmp_path / "r.onnx"), photo],
        "video": [mean_of_clips(tmp_path / "c.onnx"), tmp_path / "clip.npy"],
        "points": [coarse_maps(tmp_path / "d.onnx"), photo, "--detector", tmp_path / "y.onnx"],
    }
    mean_colours(tmp_path / "sweeps.onnx", task="pointcloud")
    run = [["predict", *map(str, x), "--out", f"{tmp_path}/{name}.json"] for name, x in commands.items()]
    run.append(["predict", str(tmp_path / "sweeps.onnx"), str(photo)])
    code = WITHOUT.replace('"mmengine"', '"mmengine", "monai"').replace(
        "sys.exit(main(sys.argv[1:]))", "import json\nprint([main(x) for x in json.loads(sys.argv[1])])"
    )
    ended = subprocess.run([sys.executable, "-c", code, json.dumps(run)], capture_output=True, text=True, cwd=ROOT)
    assert ended.stdout.rstrip().endswith("[0, 0, 0, 0, 0, 0, 0, 2]"), ended.stdout + ended.stderr
    assert "a sweep becomes voxels before the network" in ended.stderr
    found = {name: json.loads((tmp_path / f"{name}.json").read_text())["predictions"][0] for name in commands}
    (box,) = found["yolo"]["objects"]
    across, down = 30 / 64, 20 / 43  # the photo is 30×20, and 64×43 in the letter box
    expected = pytest.approx([4 * across, 8 * down, 20 * across, min(32 * down, 20)])
    assert box == {"class": "person", "score": pytest.approx(0.9), "box": expected}
    assert len(found["pose"]["objects"][0]["keypoints"]) == len(found["points"]["objects"][0]["keypoints"]) == 9
    grey = np.asarray(Image.open(photo).convert("L"))
    assert found["image"]["classes"] == [{"class": "bone", "pixels": int((grey > grey.mean()).sum())}]
    bright = int((volume > volume.mean()).sum())
    assert found["volume"]["classes"] == [{"class": "bone", "voxels": bright, "mm3": pytest.approx(bright)}]
    (mask,) = (tmp_path / "masks").glob("*.nii.gz")
    assert (nibabel.load(mask).get_fdata() == (volume > volume.mean())).all()
    assert found["restored"] | {"file": ""} == {"file": "", "width": 60, "height": 40, "bits": 8}
    written = np.asarray(Image.open(f"{photo}.restored.png"))
    assert (written == pixels.repeat(2, 0).repeat(2, 1)).all()
    assert found["video"]["classes"][0]["class"] == "green"


def test_help_and_usage_come_without_pytorch() -> None:
    ended = without_torch("--help")
    assert ended.returncode == 0
    assert "predict" in ended.stdout
    told = without_torch("predict", "best.pth", "photo.png")
    assert told.returncode == 2
    assert "torch" in told.stderr
    assert "Traceback" not in told.stderr


def test_the_console_command_starts_without_importing_pytorch() -> None:
    code = "import sys; sys.argv = ['/bin/visionssm', '--help']; import visionssm_command; visionssm_command.main(); "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
    names = visionssm._OF_THE_MODELS
    assert {"LowRank", "load_official", "routes", "selective_scan"} <= names.keys()
    assert all(visionssm.__getattr__(name) is getattr(visionssm, name) for name in names)


def test_a_script_of_the_name_visionssm_registers_the_models(tmp_path: Path) -> None:
    script = tmp_path / "visionssm"
    script.write_text("import timm, visionssm\nprint(timm.is_model('vim_tiny'), callable(visionssm.selective_scan))\n")
    run = [sys.executable, str(script)]
    ended = subprocess.run(run, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ended.stdout.split() == ["True", "True"]


def test_an_exported_classifier_tells_the_classes_of_the_eager_one(tmp_path: Path, photo: Path) -> None:
    """In float16 and of the opset that was asked for."""
    out = tmp_path / "model.onnx"
    torch.manual_seed(0)
    assert export.main(["test_resnet", "--half", "--opset", "19", "--out", str(out)]) == 0
    model = onnx.load(out, load_external_data=False)
    assert [x.version for x in model.opset_import if x.domain == ""] == [19]
    assert {x.data_type for x in model.graph.initializer} & {TensorProto.FLOAT} == set()
    assert [x.name for x in (*model.graph.input, *model.graph.output)] == ["image", "scores"]
    about = {x.key: x.value for x in model.metadata_props}
    assert about["task"] == "classification"
    assert about["producer"].startswith("visionssm ")
    assert {"classes", "mean", "std", "input_size", "interpolation", "crop_pct", "crop_mode"} <= about.keys()
    torch.manual_seed(0)
    _agree(load_predictor(out), registered_classifier("test_resnet"), photo, 1e-2)


def _agree(exported: Any, eager: Any, photo: Path, tolerance: float) -> None:
    """Both list the same classes for a photo, with nearly the same scores."""
    with torch.no_grad():
        one, other = (predictor([predictor.read(photo)])[0].best for predictor in (exported, eager))
    assert one[0][0] == other[0][0]
    np.testing.assert_allclose([score for _, score in one], [score for _, score in other], rtol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_an_exported_vmamba_tells_the_classes_of_the_eager_one(half: bool, tmp_path: Path, photo: Path) -> None:
    out = tmp_path / "model.onnx"
    torch.manual_seed(0)
    assert export.main(["vmamba_nano_test", "--out", str(out), *(["--half"] if half else [])]) == 0
    torch.manual_seed(0)
    _agree(load_predictor(out), registered_classifier("vmamba_nano_test"), photo, 1e-2 if half else 1e-4)


def test_options_change_what_is_listed(tmp_path: Path, photo: Path) -> None:
    image = Image.open(photo)
    (few,) = load_exported(mean_colours(tmp_path / "c.onnx"), top_k=2)([image])
    assert len(few.rows()) == 2
    assert sum(row[2] for row in few.rows()) < 1
    (all_of_them,) = load_exported(two_objects(tmp_path / "d.onnx"), threshold=0.1)([image])
    assert [row[0] for row in all_of_them.rows()] == ["cat", "dog"]
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        load_exported(tmp_path / "c.onnx", top_k=0)
    with pytest.raises(ValueError, match="threshold does not apply"):
        load_exported(tmp_path / "c.onnx", threshold=0.5)


def test_images_of_another_size_are_refused_with_the_remedy(tmp_path: Path, photo: Path) -> None:
    predictor = load_exported(strongest_colours(tmp_path / "s.onnx", sides=(16, 16)))
    with pytest.raises(ValueError, match="--dynamic"):
        predictor([Image.open(photo)])


def test_numbers_without_a_name_are_no_result(tmp_path: Path, photo: Path) -> None:
    detector = load_exported(two_objects(tmp_path / "d.onnx", labels=(3, 1)))
    segmenter = load_exported(strongest_colours(tmp_path / "s.onnx", classes=1))
    for predictor in (detector, segmenter):
        with pytest.raises(ExportedFileError, match="class numbers"):
            predictor([Image.open(photo)])


def _foreign(path: Path) -> None:
    mean_colours(path, producer="someone 1.0")


def _of_a_task_without_images(path: Path) -> None:
    mean_colours(path, task="pointcloud")


def _old(path: Path) -> None:
    mean_colours(path, task=None)


def _cut(path: Path) -> None:
    path.write_bytes(mean_colours(path).read_bytes()[:100])


def _unprepared(path: Path) -> None:
    mean_colours(path, std=[0.0, 1.0, 1.0])


def _no_json(path: Path) -> None:
    mean_colours(path, mean="[" * 100_000)


def _no_size(path: Path) -> None:
    mean_colours(path, input_size=None)


def _nameless(path: Path) -> None:
    mean_colours(path, classes="[1, 2]")


def _weights_elsewhere(path: Path) -> None:
    """A file that takes its weights from another one, which it names."""
    (path.parent / "secret").write_bytes(bytes(12))
    weights = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="secret")
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Add", ["flat", "w"], ["scores"]),
    ]
    about = description(["red", "green", "blue"], task="classification", **PREPARED)
    write(path, nodes, {"scores": TensorProto.FLOAT}, about, constants=[weights])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (_foreign, "not written by visionssm export"),
        (_of_a_task_without_images, "is of the task .pointcloud.: a sweep becomes voxels"),
        (_old, "export again"),
        (_cut, "cannot be opened"),
        (_unprepared, "std must be"),
        (_no_json, "mean"),
        (_no_size, "input_size is missing"),
        (_nameless, "name its classes"),
        (_weights_elsewhere, "cannot be opened"),
        (lambda path: path.write_bytes(b""), "cannot be opened"),
        (lambda path: path.mkdir(), "folder|directory"),
    ],
)
def test_files_that_cannot_be_applied_are_refused_with_the_reason(
    make: Any,
    told: str,
    tmp_path: Path,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "file.onnx")
    assert predict.main([str(tmp_path / "file.onnx"), str(photo)]) == 2
    error = capsys.readouterr().err
    assert re.search(told, error), error
    assert "Traceback" not in error


@pytest.mark.parametrize("given", [["--device", "cuda"], ["--model", "vmamba_nano_test"]])
def test_options_of_checkpoints_are_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(["file.onnx", "photo.png", *given]) == 2
    assert "do not apply to an exported file" in capsys.readouterr().err


def test_what_half_and_opset_are_not_for_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["test_resnet", "--opset", "7", "--out", str(tmp_path / "x.onnx")]) == 2
    assert "opset must be at least 18" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export.main(["test_resnet", "--opset", "18", "--format", "pt2"])
    assert list(tmp_path.iterdir()) == []
