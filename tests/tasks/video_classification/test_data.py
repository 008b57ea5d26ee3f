"""Labelled videos: folders and lists, all mistakes at once, the frames and the views that are taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.videos import open_video
from visionssm.tasks.video_classification.data import VideoClips
from visionssm.tasks.video_classification.views import Augmentation, Views, segment_frames

VIEWS = {"frames": 4, "size": 16}


def write_clip(path: Path, frames: int = 6, height: int = 10, width: int = 12) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), np.uint8))
    return path


def write_frames(folder: Path, count: int = 3) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (9, 7), (20 * number, 0, 0)).save(folder / f"{number}.jpg")


def test_a_frame_of_the_middle_of_every_segment_is_taken() -> None:
    assert segment_frames(32, 8, 0.5) == [2, 6, 10, 14, 18, 22, 26, 30]
    assert segment_frames(8, 8, 0.5) == list(range(8))
    assert segment_frames(3, 6, 0.5) == [0, 0, 1, 1, 2, 2]
    assert segment_frames(1, 3, 0.5) == [0, 0, 0]
    first, second = (segment_frames(40, 4, (k + 0.5) / 2) for k in range(2))
    assert (first, second) == ([2, 12, 22, 32], [7, 17, 27, 37])


def test_folders_are_classes_and_hold_files_and_folders_of_frames(tmp_path: Path) -> None:
    write_clip(tmp_path / "runs" / "a.npy")
    write_frames(tmp_path / "runs" / "b")
    write_clip(tmp_path / "walks" / "deep" / "c.npy")
    data = VideoClips(tmp_path, views=VIEWS)
    assert data.classes == ["runs", "walks"]
    assert [(x.name, x.label) for x in data.videos] == [("runs/a.npy", 0), ("runs/b", 0), ("walks/deep/c.npy", 1)]
    assert data[1]["inputs"].shape == (1, 3, 4, 16, 16)
    assert data.sample_name(2) == "walks/deep/c.npy"


def test_animations_in_a_folder_of_their_own_are_clips_and_no_frames(tmp_path: Path) -> None:
    for name in ("runs", "walks"):
        frames = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (0, 90, 200)]
        for path in (tmp_path / name / "part" / "1.gif", tmp_path / name / "part" / "2.gif"):
            path.parent.mkdir(parents=True, exist_ok=True)
            frames[0].save(path, save_all=True, append_images=frames[1:])
    names = [x.name for x in VideoClips(tmp_path, views=VIEWS).videos]
    assert names == ["runs/part/1.gif", "runs/part/2.gif", "walks/part/1.gif", "walks/part/2.gif"]


def test_lists_have_numbers_or_names_after_spaces_commas_or_tabs(tmp_path: Path) -> None:
    for name in ("a.npy", "b c.npy", "ü.npy"):
        write_clip(tmp_path / name)
    (tmp_path / "list.txt").write_text("\ufeffa.npy 1\n# a note\n\nb c.npy,0\nü.npy\t2\n", encoding="utf-8")
    data = VideoClips(tmp_path, annotations="list.txt", views=VIEWS)
    assert [(x.name, x.label) for x in data.videos] == [("a.npy", 1), ("b c.npy", 0), ("ü.npy", 2)]
    assert data.classes == ["0", "1", "2"]
    assert VideoClips(tmp_path, annotations="list.txt", classes=["x", "y", "z"]).classes == ["x", "y", "z"]
    quoted = f"'a.npy', 1\n\"b c.npy\",0 \nü.npy{' ' * 20_000}2\n"  # as some write lists; the spaces take no time
    (tmp_path / "quoted.txt").write_text(quoted, encoding="utf-8")
    assert VideoClips(tmp_path, annotations="quoted.txt", views=VIEWS).videos == data.videos
    (tmp_path / "names.txt").write_text("a.npy runs\nb c.npy jumps\n")
    named = VideoClips(tmp_path, annotations="names.txt")
    assert (named.classes, [x.label for x in named.videos]) == (["jumps", "runs"], [1, 0])


def test_all_mistakes_of_a_list_are_told_at_once(tmp_path: Path) -> None:
    write_clip(tmp_path / "good.npy")
    np.save(tmp_path / "none.npy", np.zeros((0, 4, 4), np.uint8))
    (tmp_path / "damaged.npy").write_bytes(b"no array")
    lines = [
        "good.npy 0",
        "good.npy 9",
        "absent.npy 1",
        "none.npy 1",
        "damaged.npy 0",
        "../out.npy 1",
        "alone",
        f"a{' ' * 20_000},",
    ]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    arguments: dict[str, Any] = {"annotations": "list.txt", "classes": ["no", "yes"], "views": VIEWS}
    with pytest.raises(DatasetError) as caught:
        VideoClips(tmp_path, **arguments)
    told = str(caught.value)
    for part in (
        "has 7 mistakes",
        "1 labels that are not from 0 to 1: 9 of 'good.npy'",
        "1 missing videos: 'absent.npy'",
        "1 videos without frames: 'none.npy'",
        "1 unreadable videos: 'damaged.npy'",
        "1 paths that lead out of root: '../out.npy'",
        f"2 lines that are not 'path label': line 7 ('alone'), line 8 ('a{' ' * 39}')",
        "wrong='skip'",
    ):
        assert part in told
    assert len(VideoClips(tmp_path, **arguments, wrong="skip")) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"annotations": "absent.txt"}, "looked for the file"),
        ({"views": {"framse": 4}}, "closest: 'frames'"),
        ({"views": {"frames": 0}}, "from 1 to 512"),
        ({"views": {"crops": 2}}, "crops must be 1 or 3"),
        ({"views": {"mean": (0.5,)}}, "mean must be 3 numbers"),
        ({"augment": {"flip": 2}}, "flip is a probability"),
        ({"augment": {"scale": (0.5, 2)}}, "up to 1"),
        ({"augment": {"rand_augment": 3}}, "two numbers"),
        ({"classes": ["a", "b"]}, "has no folder 'a'"),
        ({"wrong": "ignore"}, "wrong must be 'raise' or 'skip'"),
    ],
)
def test_unusable_arguments_are_named(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    for name in ("x", "y"):
        write_clip(tmp_path / name / "clip.npy")
    with pytest.raises(DatasetError, match=told):
        VideoClips(tmp_path, **options)


def test_folders_without_classes_or_videos_are_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="looked for the folder"):
        VideoClips(tmp_path / "absent")
    write_clip(tmp_path / "x" / "clip.npy")
    with pytest.raises(DatasetError, match="two classes are needed"):
        VideoClips(tmp_path)
    (tmp_path / "y").mkdir()
    with pytest.raises(DatasetError, match="hold no videos: y"):
        VideoClips(tmp_path)


def test_damage_that_shows_late_stops_or_is_passed_over(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_clip(tmp_path / name / "clip.npy")
    stopping = VideoClips(tmp_path, views=VIEWS)
    skipping = VideoClips(tmp_path, views=VIEWS, wrong="skip", augment={})
    (tmp_path / "x" / "clip.npy").write_bytes(b"gone")
    with pytest.raises(CorruptImageError, match=r"x/clip\.npy"):
        stopping[0]
    sample = skipping[0]
    assert (sample["labels"], sample["skipped"]) == (1, 1)
    assert sample["inputs"].shape == (3, 4, 16, 16)
    skipping.for_evaluation()
    assert skipping[0]["labels"] == -1
    assert skipping[0]["inputs"].shape == skipping[1]["inputs"].shape == (1, 3, 4, 16, 16)


def test_views_are_the_parts_of_the_picture_along_its_longer_side(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(0, 240, 4, dtype=np.uint8)[None, None, :, None], (8, 20, 60, 3))
    np.save(tmp_path / "ramp.npy", ramp)
    views = Views(frames=4, size=20, clips=2, crops=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = views(open_video(tmp_path / "ramp.npy"))
    assert found.shape == (6, 3, 4, 20, 20)
    torch.testing.assert_close(found[:3], found[3:])
    for crop, left in enumerate((0, 20, 40)):
        expected = torch.arange(left, left + 20) * 4 / 255
        torch.testing.assert_close(found[crop, 0, 0, 0], expected)
    assert np.array_equal(views.levels(found[1]), ramp[:4, :, 20:40])
    grey = Views(frames=2, size=8, channels=1, mean=(0.0,), std=(1.0,))
    assert grey(open_video(tmp_path / "ramp.npy")).shape == (1, 1, 2, 8, 8)


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 1, 5000, 3), (2, 3, 2, 3)])
def test_a_clip_of_one_frame_one_pixel_or_one_row_has_its_views(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "clip.npy", np.full(shape, 128, np.uint8))
    video, views = open_video(tmp_path / "clip.npy"), Views(frames=4, size=16, crops=3)
    assert views(video).shape == (3, 3, 4, 16, 16)
    assert Augmentation()(video, views).shape == (3, 4, 16, 16)


def test_all_frames_of_a_clip_are_changed_alike(tmp_path: Path) -> None:
    still = np.broadcast_to(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8), (8, 20, 30, 3))
    np.save(tmp_path / "still.npy", still)
    torch.manual_seed(0)
    found = Augmentation(erase=1.0)(open_video(tmp_path / "still.npy"), Views(frames=4, size=16))
    torch.testing.assert_close(found, found[:, :1].expand_as(found))
    again = Augmentation(erase=1.0)(open_video(tmp_path / "still.npy"), Views(frames=4, size=16))
    assert not torch.equal(found, again)
