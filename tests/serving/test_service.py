"""What a service answers to files of strangers, without HTTP."""

from __future__ import annotations

import base64
import gc
import gzip
import io
import json
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from tests.serving.rubbish import RUBBISH, png
from tests.tasks.test_exported import mean_colours, strongest_colours, two_objects
from visionssm.data.errors import UnreadableFileError
from visionssm.prediction import load_exported, registered_classifier
from visionssm.serving import Limits, RefusedError, Service
from visionssm.serving.examples import own_examples, rendered_examples
from visionssm.tasks.classification.results import ClassResult


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(load_exported(mean_colours(tmp_path / "colours.onnx")), "colours.onnx")


def refused(service: Service, content: bytes, name: str = "", **asked: bool) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        service.answer(content, name, **asked)
    return caught.value


def test_an_answer_has_the_table_the_result_and_the_time(service: Service) -> None:
    answer = service.answer(png(), "photo.png", pictures=True)
    assert answer.columns == ("rank", "class", "score")
    assert answer.rows[0][1] == answer.result["classes"][0]["class"] == "green"
    assert answer.milliseconds.keys() == {"file", "model", "pictures"}
    (picture,) = answer.pictures
    kind, _, data = picture.partition(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).width >= 30
    assert not service.answer(png()).pictures


@pytest.mark.parametrize("make", [strongest_colours, two_objects])
def test_other_tasks_answer_in_the_same_form(make: Any, tmp_path: Path) -> None:
    answer = Service(load_exported(make(tmp_path / "model.onnx")), "model").answer(png(), pictures=True)
    assert len(answer.rows[0]) == len(answer.columns)
    assert len(answer.pictures) == 1


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_is_refused_with_its_status_and_no_path(name: str, service: Service) -> None:
    content, status = RUBBISH[name]
    error = refused(service, content, "photo.png")
    assert error.status == status
    assert "/" not in str(error).replace("×", "")
    assert service.answer(png()).rows


def test_the_name_of_a_file_chooses_no_place(service: Service) -> None:
    for name in (
        "../../etc/passwd",
        "/etc/passwd",
        "x\x00.png",
        "a" * 10_000,
        "photo.nii.gz",
        "..",
        "con.eps",
        "é☃.PNG",
    ):
        assert service.answer(png(), name).rows == service.answer(png()).rows


@pytest.mark.parametrize(
    ("limits", "content", "told"),
    [
        (Limits(bytes=100), png(), "bytes"),
        (Limits(pixels=599), png(), "30×20"),
    ],
)
def test_files_beyond_the_limits_are_413(limits: Limits, content: bytes, told: str, service: Service) -> None:
    error = refused(replace(service, limits=limits), content)
    assert error.status == 413
    assert told in str(error)
    assert replace(service, limits=Limits(bytes=len(content), pixels=600)).answer(content).rows


@pytest.mark.parametrize("name", ["bytes", "pixels", "aspect", "waiting", "per_minute"])
def test_impossible_limits_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Limits(**{name: -1})


@dataclass(frozen=True)
class Odd:
    """A predictor that does what it is told by `what`, of files of any kind."""

    columns: ClassVar[tuple[str, ...]] = ("rank", "class", "score")
    model: ClassVar[None] = None

    what: Any

    def read(self, path: Path) -> Any:
        if self.what == "unreadable":
            raise UnreadableFileError(path, f"no such file: {str(path)!r}")
        return path.read_bytes() if path.suffix != ".nii" else path.name

    def __call__(self, samples: Any) -> list[ClassResult]:
        if isinstance(self.what, Exception):
            raise self.what
        if callable(self.what):
            self.what()
        return [ClassResult([(str(x), self.what if isinstance(self.what, float) else 0.5)]) for x in samples]


@pytest.mark.parametrize(
    ("what", "status", "told"),
    [
        ("unreadable", 400, "the file cannot be read"),
        (ValueError("it has no points"), 400, "it has no points"),
        (RuntimeError("/usr/lib/secret is missing"), 500, "RuntimeError"),
        (MemoryError(), 500, "MemoryError"),
        (float("nan"), 500, "not finite"),
    ],
)
def test_errors_of_a_model_have_a_status_and_tell_no_path(
    what: Any, status: int, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(Odd(what), "odd")  # type: ignore[arg-type]
    error = refused(service, bytes(64), "sweep.bin")
    assert error.status == status
    assert told in str(error)
    assert "/" not in str(error)
    assert "visionssm-" not in str(error)
    assert ("RuntimeError" in caplog.text) == isinstance(what, RuntimeError)


def test_no_more_than_a_few_wait_and_the_others_are_told_to_come_again() -> None:
    going, released = threading.Event(), threading.Event()

    def hold() -> None:
        going.set()
        assert released.wait(20)

    service = Service(Odd(hold), "odd", limits=Limits(waiting=1))  # type: ignore[arg-type]
    thread = threading.Thread(target=service.answer, args=(b"1234", "sweep.bin"))
    thread.start()
    assert going.wait(20)
    assert refused(service, b"1234", "sweep.bin").status == 503
    released.set()
    thread.join()
    assert service.answer(b"1234", "sweep.bin").rows


def test_compressed_volumes_are_expanded_within_the_limit_only() -> None:
    service = Service(Odd(None), "odd", limits=Limits(pixels=1000))  # type: ignore[arg-type]
    assert service.answer(gzip.compress(bytes(8000)), "scan.NII.GZ").rows[0][1] == "file.nii"
    assert refused(service, gzip.compress(bytes(8001)), "scan.nii.gz").status == 413
    assert refused(service, gzip.compress(bytes(10**8)), "scan.nii.gz").status == 413
    assert refused(service, gzip.compress(bytes(8000))[:-9], "scan.nii.gz").status == 400
    assert refused(service, b"\x1f\x8b\x08\x00" + bytes(50), "scan.nii.gz").status == 400


def test_an_image_is_no_sweep_whatever_its_name_says() -> None:
    service = Service(Odd(None), "odd")  # type: ignore[arg-type]
    assert service.answer(np.arange(8, dtype="<f4").tobytes(), "sweep.bin").rows
    error = refused(service, png(), "sweep.bin")
    assert error.status == 400
    assert "image" in str(error)


def test_all_frames_of_a_clip_count() -> None:
    frames = [Image.new("L", (20, 20), shade) for shade in range(0, 250, 25)]
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:])
    for limit, fits in ((3999, False), (4000, True)):
        service = Service(Odd(None), "odd", limits=Limits(pixels=limit))  # type: ignore[arg-type]
        if fits:
            assert service.answer(content.getvalue()).rows
        else:
            assert "10 frames" in str(refused(service, content.getvalue()))


def test_a_classifier_in_pytorch_is_explained_and_others_are_not(service: Service) -> None:
    torch.manual_seed(0)
    explained = Service(registered_classifier("test_resnet"), "test_resnet")
    assert explained.explains
    assert not service.explains
    answer = explained.answer(png(), pictures=True, explain=True)
    assert len(answer.pictures) == 2
    assert answer.note == ""
    error = refused(service, png(), explain=True)
    assert error.status == 400
    assert "explain" in str(error)


def test_a_map_of_one_pixel_is_explained_on_a_larger_image_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    explained = Service(registered_classifier("test_resnet"), "test_resnet")
    seen: list[tuple[int, ...]] = []

    def of_one_pixel(model: Any, image: torch.Tensor, index: int | None = None) -> tuple[torch.Tensor, int]:
        seen.append(tuple(image.shape[-2:]))
        cam = torch.zeros(image.shape[-2:])
        cam[:5] = float(len(seen) > 1 and tells)
        return cam, 3 if index is None else index

    monkeypatch.setattr("visionssm.visualization.class_activation_map", of_one_pixel)
    for tells in (True, False):
        seen.clear()
        answer = explained.answer(png(), explain=True)
        assert seen == [(160, 160), (640, 640)]
        assert len(answer.pictures) == tells
        assert ("640×640" in answer.note, "No place" in answer.note) == (tells, not tells)


def test_a_card_tells_the_model_and_its_limits_in_json(service: Service) -> None:
    card = replace(service, about={"paper": "a paper"}).card()
    assert card["model"] == "colours.onnx"
    assert card["classes"] == ["red", "green", "blue"]
    assert card["paper"] == "a paper"
    assert card["limits"]["bytes"] == Limits().bytes
    assert json.loads(json.dumps(card, allow_nan=False)) == card


def test_rendered_examples_are_files_that_the_service_takes(service: Service, tmp_path: Path) -> None:
    grey = Service(load_exported(mean_colours(tmp_path / "grey.onnx")), "grey")
    for each in (service, grey):
        examples = rendered_examples(each)
        assert len(examples) == 3
        assert len({content for _, content in examples}) == 3
        assert all(each.answer(content, name).rows for name, content in examples)
    assert rendered_examples(Service(Odd(None), "odd")) == []  # type: ignore[arg-type]


def test_own_examples_are_offered_by_name_without_their_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(png())
    assert own_examples([tmp_path], 10_000) == [("mine.png", png())]
    with pytest.raises(ValueError, match="larger"):
        own_examples([tmp_path], 10)
    with pytest.raises(ValueError, match="--examples"):
        own_examples([], 10)


def test_warming_up_tells_seconds_and_takes_models_of_one_size(service: Service, tmp_path: Path) -> None:
    assert service.warm_up() > 0
    assert Service(load_exported(strongest_colours(tmp_path / "s.onnx", sides=(16, 16))), "s").warm_up() > 0


def test_memory_stays_flat_over_many_answers(service: Service) -> None:
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    contents = [png(seed=seed) for seed in range(8)]

    def rounds(count: int) -> int:
        for number in range(count):
            service.answer(contents[number % 8], pictures=True)
        gc.collect()
        return int(process.memory_info().rss)

    before = rounds(30)
    assert rounds(100) - before < 16 << 20
    assert np.isfinite(before)
