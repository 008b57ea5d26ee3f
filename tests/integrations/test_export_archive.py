"""Archives of strangers are looked through before PyTorch loads them; those of this package are applied."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from visionssm.engine.exported import ExportedFileError, open_graph
from visionssm.integrations.export import Exportable, ExportError, description, export_archive, export_onnx
from visionssm.prediction import load_predictor

PREPARED: dict[str, Any] = {"input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}


class Means(nn.Module):
    """Scores that are the means of red, green and blue, through maps that a stride makes small."""

    def __init__(self, stride: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3))
        self.stride = stride

    def forward(self, image: Tensor) -> Tensor:
        maps = image[:, :, :: self.stride, :: self.stride].permute(0, 2, 3, 1)
        tokens = maps.reshape(maps.shape[0], maps.shape[1] * maps.shape[2], 3)
        return (tokens @ self.weight).mean(1)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "model.pt2"
    about = description(["red", "green", "blue"], task="classification", **PREPARED)
    export_archive(Exportable(Means(), outputs=("scores",), about=about), path, torch.randn(2, 3, 64, 64))
    return path


def changed(good: Path, path: Path, change: Callable[[dict[str, bytes]], None], kind: int = zipfile.ZIP_STORED) -> Path:
    """The same archive with other files in it."""
    with zipfile.ZipFile(good) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    return path


def test_archive_is_applied_like_the_network_and_names_no_place_of_this_machine(good: Path) -> None:
    graph = open_graph(good)
    image = np.random.default_rng(0).random((2, 3, 40, 52), dtype=np.float32)
    with torch.no_grad():
        expected = Means()(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(graph(image)["scores"], expected, atol=1e-5)
    assert str(Path(__file__).parent).encode() not in good.read_bytes()
    assert b".tmp" not in good.read_bytes()
    predictor: Any = load_predictor(good, top_k=2)
    assert predictor.classes == ("red", "green", "blue")
    assert predictor.top_k == 2


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def _of_model(change: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    def apply(records: dict[str, bytes]) -> None:
        model = json.loads(records["models/model.json"])
        change(model)
        records["models/model.json"] = json.dumps(model).encode()

    return apply


def _other_target(target: str) -> Callable[[dict[str, bytes]], None]:
    return _of_model(lambda model: model["graph_module"]["graph"]["nodes"][0].update(target=target))


def _pickled(records: dict[str, bytes]) -> None:
    name = "data/weights/model_weights_config.json"
    config = json.loads(records[name])
    for entry in config["config"].values():
        entry["use_pickle"] = True
        records[f"data/weights/{entry['path_name']}"] = pickle.dumps(_Runs())
    records[name] = json.dumps(config).encode()


def _huge(records: dict[str, bytes]) -> None:
    name = "data/weights/model_weights_config.json"
    config = json.loads(records[name])
    for entry in config["config"].values():
        entry["tensor_meta"]["sizes"] = [{"as_int": 10**6}, {"as_int": 10**6}]
        records[f"data/weights/{entry['path_name']}"] = b""
    records[name] = json.dumps(config).encode()


def _sample(records: dict[str, bytes]) -> None:
    file = io.BytesIO()
    torch.save((_Runs(),), file)
    records["data/sample_inputs/model.pt"] = file.getvalue()


HOSTILE: Mapping[str, tuple[Callable[[dict[str, bytes]], Any], str]] = {
    "pickled weights": (_pickled, "pickled weights"),
    "a pickled sample": (_sample, "sample input"),
    "huge weights": (_huge, "larger than the file"),
    "a function of torch": (_other_target("torch.hub.load"), "the function 'torch.hub.load'"),
    "a way to a function": (_other_target("_operator.attrgetter"), "the function"),
    "a file's operator": (_other_target("torch.ops.aten.from_file.default"), "the function"),
    "a condition": (
        _of_model(lambda model: model.update(guards_code=["__import__('pathlib').Path('ran').touch() or True"])),
        "the condition",
    ),
    "an expression": (
        _of_model(lambda model: model.update(more={"expr_str": "exec(compile('1', '', 'exec'))"})),
        "the expression",
    ),
    "a name": (
        _of_model(lambda model: model["graph_module"]["graph"]["nodes"][0].update(name="x); open('ran', 'w'")),
        "the name",
    ),
    "a library": (lambda records: records.update({"data/aotinductor/model/x.so": b"\x7fELF"}), "x.so"),
    "no description": (lambda records: records.pop("extra/about.json"), "not written by visionssm export"),
    "another program": (
        lambda records: records.update({"extra/about.json": b'{"producer": "someone"}'}),
        "not written by visionssm export",
    ),
    "half of it": (lambda records: records.pop("models/model.json"), "no whole archive"),
    "damaged texts": (lambda records: records.update({"models/model.json": b"[" * 100_000}), "damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_could_run_code_or_grow_is_refused_before_it_is_loaded(
    name: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, told = HOSTILE[name]
    path = changed(good, tmp_path / "other.pt2", change)
    with pytest.raises(ExportedFileError, match=told):
        open_graph(path)
    assert not (tmp_path / "ran").exists()


def test_compressed_and_truncated_archives_are_refused(good: Path, tmp_path: Path) -> None:
    small = changed(good, tmp_path / "small.pt2", lambda records: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(ExportedFileError, match="compressed"):
        open_graph(small)
    (tmp_path / "cut.pt2").write_bytes(good.read_bytes()[:2000])
    with pytest.raises(ExportedFileError, match="cannot be opened"):
        open_graph(tmp_path / "cut.pt2")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_example_whose_last_map_has_one_pixel_gives_an_onnx_file_for_every_size(tmp_path: Path) -> None:
    import onnxruntime
    import timm

    torch.manual_seed(0)
    model, image = timm.create_model("vmamba_nano_test", depths=(1, 1, 1, 1)).eval(), torch.randn(1, 3, 32, 32)
    assert export_onnx(model, tmp_path / "model.onnx", image) <= 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for size in ((1, 3, 32, 32), (3, 3, 64, 32), (2, 3, 97, 130)):
        x = torch.randn(size)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-4, atol=1e-5)


class _Notes(nn.Module):
    """Notes the sizes that it is given."""

    def forward(self, image: Tensor) -> Tensor:
        seen.append(tuple(image.shape))
        return image.mean((2, 3))


seen: list[Any] = []


@pytest.mark.parametrize(
    ("given", "expected"), [((1, 3, 32, 48), [2, 3, 64, 64]), ((1, 3, 16, 32, 48), [2, 3, 16, 32, 48])]
)
def test_exporter_sees_an_input_whose_batch_and_last_map_are_larger_than_one(
    given: tuple[int, ...], expected: list[int], tmp_path: Path
) -> None:
    seen.clear()
    assert export_archive(_Notes(), tmp_path / "model.pt2", torch.randn(given)) <= 1e-4
    sizes = [side.node.hint if isinstance(side, torch.SymInt) else side for side in seen[0]]
    assert sizes == expected
    assert given in seen, "the file is compared at the size that was asked for too"


class _AsksValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x


@pytest.mark.parametrize("dynamic", [True, False])
def test_remedy_of_fixed_sizes_is_told_to_those_alone_who_asked_for_open_ones(dynamic: bool, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as told:
        export_archive(_AsksValues(), tmp_path / "model.pt2", torch.randn(2, 3, 64, 64), dynamic=dynamic)
    assert ("without --dynamic" in str(told.value)) == dynamic
