"""Clips in files, and their pictures."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from visionssm.backbones.convs5 import create_convs5
from visionssm.data.errors import UnreadableFileError
from visionssm.tasks.video.frames import draw_frames
from visionssm.tasks.video.predictor import MOST_FRAMES, NextFrames


@pytest.fixture(scope="module")
def predictor() -> NextFrames:
    return NextFrames(create_convs5("convs5_nano", widths=(8, 8), dim=8, states=8, depth=1).eval(), context=3, steps=4)


class Trap:
    """Its pickle makes a folder where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("array", [True, False])
def test_pickled_objects_are_refused_and_run_nothing(predictor: NextFrames, tmp_path: Path, array: bool) -> None:
    trap = Trap(tmp_path / "sprung")
    if array:
        np.save(tmp_path / "trap.npy", np.array([trap], dtype=object), allow_pickle=True)
    else:
        (tmp_path / "trap.npy").write_bytes(pickle.dumps(trap))
    with pytest.raises(UnreadableFileError, match="it is no clip"):
        predictor.read(tmp_path / "trap.npy")
    assert not (tmp_path / "sprung").exists()


def test_bytes_and_floats_are_read_as_levels_from_minus_one_to_one(predictor: NextFrames, tmp_path: Path) -> None:
    levels = np.zeros((2, 4, 4), np.uint8)
    levels[1] = 255
    np.save(tmp_path / "bytes.npy", levels)
    np.save(tmp_path / "floats.npy", levels.astype(np.float64)[..., None] / 127.5 - 1)
    want = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 4, 4, 1)
    assert torch.equal(predictor.read(tmp_path / "bytes.npy"), want)
    assert torch.equal(predictor.read(tmp_path / "floats.npy"), want)


def test_a_folder_of_images_is_a_clip_like_the_array_of_its_frames(predictor: NextFrames, tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (11, 8, 12), np.uint8)
    (tmp_path / "frames").mkdir()
    for number, level in enumerate(levels):
        Image.fromarray(level).save(tmp_path / "frames" / f"{number}.png")
    np.save(tmp_path / "same.npy", levels)
    assert predictor.samples_below(tmp_path) == [tmp_path / "frames", tmp_path / "same.npy"]
    assert torch.equal(predictor.read(tmp_path / "frames"), predictor.read(tmp_path / "same.npy"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableFileError, match="no image files"):
        predictor.read(tmp_path / "empty")


@pytest.mark.parametrize(
    "array, message",
    [
        (np.full((2, 4, 4), 1.01, np.float32), "floats outside of -1 to 1"),
        (np.full((2, 4, 4), -1.01, np.float32), "floats outside of -1 to 1"),
        (np.full((2, 4, 4), np.nan, np.float32), "not finite"),
        (np.zeros((2, 4, 4, 2), np.uint8), "the model takes 1 channels"),
        (np.zeros((4, 4), np.uint8), "the model takes 1 channels"),
    ],
)
def test_unfit_arrays_are_told(predictor: NextFrames, tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "clip.npy", array)
    with pytest.raises(UnreadableFileError, match=message):
        predictor.read(tmp_path / "clip.npy")


def test_no_more_frames_are_read_than_a_limit(predictor: NextFrames, tmp_path: Path) -> None:
    levels = np.zeros((MOST_FRAMES + 3, 4, 4), np.uint8)
    levels[1::2] = 255
    np.save(tmp_path / "long.npy", levels)
    first, *rest = (Image.fromarray(level) for level in levels)
    first.save(tmp_path / "long.gif", save_all=True, append_images=rest)
    assert len(predictor.read(tmp_path / "long.npy")) == 1024
    assert len(predictor.read(tmp_path / "long.gif")) == 1024


def test_a_file_goes_on_for_as_many_frames_as_it_has_or_else_for_the_steps(predictor: NextFrames) -> None:
    clips = [torch.zeros(length, 4, 4, 1) for length in (3, 5)]
    short, long = predictor(clips)
    assert len(short.generated) == 4
    assert short.plain() == {"given": 3, "frames": [{"frame": frame, "psnr": None} for frame in (3, 4, 5, 6)]}
    assert len(long.generated) == 2
    assert [frame for frame, _ in long.rows()] == [3, 4]
    assert all(isinstance(psnr, float) for _, psnr in long.rows())


def test_generated_frames_stand_behind_a_light_line_and_given_ones_behind_a_dark_one() -> None:
    clip, generated = torch.full((6, 16, 16, 1), -1.0), torch.full((2, 16, 16, 1), 1.0)
    pictures = draw_frames([(clip, generated), (clip, generated)])
    assert len(pictures) == 6
    for t, picture in enumerate(pictures):
        assert picture.shape == (34, 34, 1)
        for column in (picture[:, :16], picture[:, 18:]):
            assert column[:16].unique().tolist() == [0]
            assert column[16:18].unique().tolist() == [220 if t >= 4 else 96]
            assert column[18:].unique().tolist() == [255 if t >= 4 else 0]
        assert picture[:, 16:18].unique().tolist() == [96]
