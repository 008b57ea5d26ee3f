"""Several processes share the files of a prediction and the samples of a test."""

from __future__ import annotations

import json
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tests.forks import Ended, run_forked
from visionssm.cli import predict
from visionssm.prediction.files import UnusableFileError
from visionssm.processes import first_host

NAME = "vmamba_nano_test"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "nano.pth"
    torch.save(timm.create_model(NAME, num_classes=1000).state_dict(), path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Nine images of a folder, and two files in between that are none."""
    folder = tmp_path / "files"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(11):
        path = folder / f"{number:02d}.png"
        if number in (2, 7):
            path.write_text("no image")
        else:
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return folder


def prediction(weights: Path, files: Path, folder: Path, *more: str) -> int:
    arguments = [str(weights), str(files), "--model", NAME, "--batch-size", "2", "--device", "cpu", *more]
    return predict.main([*arguments, "--out", str(folder / "out.json"), "--pictures", str(folder / "pictures")])


def common_checks(ended: list[Ended], alone: tuple[str, str]) -> None:
    assert [x.status for x in ended] == [0] * len(ended), ended
    assert (ended[0].out, ended[0].err) == alone
    assert all((x.out, x.err) == ("", "") for x in ended[1:])


@pytest.mark.parametrize("by", ["torchrun", "slurm"])
def test_processes_find_together_what_one_finds_alone_and_say_it_once(
    weights: Path, files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], by: str
) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert prediction(weights, files, alone) == 0
    said = capfd.readouterr()
    assert "2 of 11 files could not be read" in said.err
    more = ["--launcher", "slurm"] if by == "slurm" else []
    ended = run_forked(2, lambda rank: prediction(weights, files, shared, *more), tmp_path / "said", by=by)

    common_checks(ended, (said.out, said.err))
    first, second = (json.loads((folder / "out.json").read_text()) for folder in (alone, shared))
    assert [Path(x["file"]).stem for x in second["predictions"]] == [f"{n:02d}" for n in range(11) if n not in (2, 7)]
    assert [Path(x["file"]).stem for x in second["unreadable"]] == ["02", "07"]
    for one, two in zip(first["predictions"], second["predictions"], strict=True):
        assert one["file"] == two["file"]
        assert [x["class"] for x in one["classes"]] == [x["class"] for x in two["classes"]]
        np.testing.assert_allclose(*([x["score"] for x in y["classes"]] for y in (one, two)), rtol=1e-5)
    drawn = [sorted(x.name for x in (folder / "pictures").iterdir()) for folder in (alone, shared)]
    assert drawn[0] == drawn[1]
    assert drawn[1][2] == "0003_03.png", "pictures are numbered as the files are, whoever draws them"


def test_what_stops_all_processes_is_told_by_one(files: Path, tmp_path: Path) -> None:
    ended = run_forked(2, lambda rank: prediction(tmp_path / "absent.pth", files, tmp_path), tmp_path / "said")
    assert [x.status for x in ended] == [2, 2]
    assert sorted(x.err.count("does not exist") for x in ended) == [0, 1]
    assert not (tmp_path / "out.json").exists()


def test_a_killed_process_ends_the_others_with_one_sentence(weights: Path, files: Path, tmp_path: Path) -> None:
    def work(rank: int) -> int:
        if rank == 1:
            predict.predict_share = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore
        return prediction(weights, files, tmp_path)

    ended = run_forked(3, work, tmp_path / "said")
    assert [x.status for x in ended] == [2, -signal.SIGKILL, 2], ended
    told = [line for x in ended for line in x.err.splitlines() if line.startswith("error: ")]
    # One speaks for all, unless the first process, which keeps count here (with torchrun its agent does), ended first.
    assert 1 <= len(told) <= 2, [x.err for x in ended]
    assert all(x.startswith("error: another of the 3 processes that share the work has ended") for x in told)
    assert not any("Traceback" in x.err for x in ended)
    assert not (tmp_path / "out.json").exists()


def test_errors_of_files_reach_another_process_whole() -> None:
    class Local(Exception):
        """Cannot be copied."""

    for cause in (RuntimeError("too dark"), Local("odd")):
        error = UnusableFileError(Path("a.png"), cause)
        copy = pickle.loads(pickle.dumps(error))
        assert (copy.path, copy.reason, str(copy)) == (error.path, error.reason, str(error))
        assert isinstance(copy.cause, RuntimeError)


@pytest.mark.parametrize(
    "nodes, first", [("gpu[03-07,12],x", "gpu03"), ("a", "a"), ("rack[1-2]node[5,7]", "rack1node5"), ("b,c[1]", "b")]
)
def test_processes_of_slurm_meet_at_the_first_node(nodes: str, first: str) -> None:
    assert first_host(nodes) == first
