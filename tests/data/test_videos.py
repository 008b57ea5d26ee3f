"""Clips of every kind are read frame by frame, and whatever is none is told as what it is."""

from __future__ import annotations

import importlib.util
import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from visionssm.data import videos
from visionssm.data.errors import UnreadableFileError
from visionssm.data.videos import clips_below, open_video

needs_av = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="PyAV, of the extra video")


def levels(count: int, height: int = 12, width: int = 16) -> np.ndarray:
    """(T, H, W, 3) frames, each of one level of its own."""
    return np.stack([np.full((height, width, 3), 7 * n, np.uint8) for n in range(count)])


def write_video(path: Path, frames: np.ndarray, codec: str = "mpeg4") -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_animation(path: Path, frames: np.ndarray) -> Path:
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], **({"lossless": True} if "webp" in path.name else {}))
    return path


def write_folder(path: Path, frames: np.ndarray) -> Path:
    path.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"frame{number}.png")
    return path


KINDS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "folder": write_folder,
    "clip.npy": np.save,
    "clip.npz": lambda path, frames: np.savez_compressed(path, frames=frames, labels=np.zeros(3)),
    "one.npz": np.savez,
    "clip.gif": write_animation,
    "clip.webp": write_animation,
    "clip.png": write_animation,
}


@pytest.mark.parametrize("name", KINDS)
def test_chosen_frames_are_those_that_were_written(tmp_path: Path, name: str) -> None:
    frames = levels(12)
    KINDS[name](tmp_path / name, frames)
    video = open_video(tmp_path / name)
    assert video.frames == 12
    assert np.array_equal(video.read([0, 2, 2, 11]), frames[[0, 2, 2, 11]])


@needs_av
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "clip.mov", "clip.ts", "clïp 中文.MP4"])
def test_chosen_frames_of_a_video_file_are_those_that_were_written(tmp_path: Path, name: str) -> None:
    frames = levels(20, 32, 48)
    lower = write_video(tmp_path / name.lower(), frames)
    video = open_video(lower.rename(tmp_path / name))
    assert video.frames == 20
    found = video.read([0, 3, 3, 19]).astype(int)
    assert np.abs(found - frames[[0, 3, 3, 19]]).max() <= 6  # of a lossy code


def test_floats_and_grey_arrays_become_colours(tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4))
    found = open_video(tmp_path / "grey.npy").read([1])
    assert found.shape == (1, 3, 4, 3)
    assert found[0, -1, -1].tolist() == [255, 255, 255]


def header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("frames.npy", header((10**5, 1000, 1000, 3)))


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.npy": (lambda path: path.write_bytes(b""), "the file is empty"),
    "zero.npy": (lambda path: np.save(path, np.zeros((0, 8, 8, 3), np.uint8)), "it has no frames"),
    "flat.npy": (lambda path: np.save(path, np.zeros((0, 8), np.uint8)), "is not .T, H, W."),
    "code.npy": (lambda path: np.save(path, np.array([{}], object)), "it is no clip"),
    "whole.npy": (lambda path: np.save(path, np.zeros((3, 4, 4), np.int32)), "values of the type int32"),
    "cut.npy": (lambda path: path.write_bytes(header((3, 4, 4)) + b"1"), "it is no clip"),
    "nan.npy": (lambda path: np.save(path, np.full((3, 4, 4), np.nan)), "floats outside of 0 to 1"),
    "bomb.npz": (write_zip, "are more than the"),
    "two.npz": (lambda path: np.savez(path, a=np.zeros(3), b=np.zeros(3)), "holds 2 arrays"),
    "photo.png": (lambda path: Image.new("RGB", (4, 4)).save(path), "a single picture"),
    "letter.txt": (lambda path: path.write_text("words"), ".txt is no kind of clip"),
    "name": (lambda path: path.write_text("words"), "a name without suffix"),
    "hollow": (lambda path: path.mkdir(), "has no image files"),
    "absent.mp4": (lambda path: None, "no such file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_clip_is_told_as_what_it_is(tmp_path: Path, name: str) -> None:
    write, told = WRONG[name]
    write(tmp_path / name)
    with pytest.raises(UnreadableFileError, match=told):
        open_video(tmp_path / name).read([0])


def test_frames_of_different_sizes_and_damaged_ones_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", levels(2))
    Image.new("RGB", (3, 3)).save(folder / "frame2.png")
    (folder / "frame10.jpg").write_bytes(b"no picture")
    video = open_video(folder)
    assert video.frames == 4
    with pytest.raises(UnreadableFileError, match=r"different sizes, 16×12 and 3×3 \(frame2\.png\)"):
        video.read([0, 2])
    with pytest.raises(UnreadableFileError, match=r"frame10\.jpg"):
        video.read([0, 3])


WRONG_VIDEOS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty.mp4": (lambda video: b"", "the file is empty"),
    "cut.mp4": (lambda video: video[: len(video) // 2], "no clip|no stream"),
    "text.mp4": (lambda video: b"words" * 99, "it is no clip"),
    "list.mp4": (lambda video: b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n", "it is no clip"),
    "list.mkv": (lambda video: b"ffconcat version 1.0\nfile whole.mp4\n", "it is no clip"),
}


@needs_av
@pytest.mark.parametrize("name", WRONG_VIDEOS)
def test_a_damaged_video_and_a_list_of_other_files_is_no_clip(tmp_path: Path, name: str) -> None:
    change, told = WRONG_VIDEOS[name]
    whole = write_video(tmp_path / "whole.mp4", levels(9, 32, 32)).read_bytes()
    (tmp_path / name).write_bytes(change(whole))
    with pytest.raises(UnreadableFileError, match=told):
        open_video(tmp_path / name)


@needs_av
def test_a_video_whose_frames_are_damaged_is_refused_and_not_filled_up(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
    content = bytearray(write_video(tmp_path / "whole.avi", noise).read_bytes())
    start = content.index(b"movi")
    content[start + 400 : -400] = bytes(len(content) - start - 800)
    (tmp_path / "damaged.avi").write_bytes(bytes(content))
    with pytest.raises(UnreadableFileError, match=r"frames can be decoded|no clip|no frames"):
        open_video(tmp_path / "damaged.avi").read([0, 8])


def test_many_large_frames_are_shrunk_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "MAX_CLIP_PIXELS", 4 * 50)
    for name in ("folder", "clip.npy", "clip.gif"):
        KINDS[name](tmp_path / name, levels(4, 20, 40))
        found = open_video(tmp_path / name).read([0, 1, 2, 3])
        assert found.shape[1] * found.shape[2] <= 50
        assert np.array_equal(found[:, 0, 0], levels(4)[:, 0, 0])


def test_without_pyav_a_video_file_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").write_bytes(b"1")
    with pytest.raises(ImportError, match=r"clip\.mp4' needs av: pip install 'visionssm\[video\]'"):
        open_video(tmp_path / "clip.mp4")


def test_frames_of_a_folder_go_by_their_numbers_and_hidden_files_are_none(tmp_path: Path) -> None:
    names = ("frame10", "frame2", "frame1", "²", "²3x", "07", "7b")
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    (tmp_path / ".frame0.png").write_bytes(b"hidden")
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "deeper.png").mkdir()
    files = [path.stem for path in videos.frame_files(tmp_path)]
    assert [name for name in files if name.startswith("frame")] == ["frame1", "frame2", "frame10"]
    assert sorted(files) == sorted(names)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_an_animation_that_is_cut_off_is_no_shorter_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip.{suffix}"
    frames = [Image.fromarray(x) for x in np.random.default_rng(0).integers(0, 256, (6, 20, 30, 3), np.uint8)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    content = path.read_bytes()
    assert open_video(path).frames == 6
    path.write_bytes(content + b"\0more")  # behind its end anything may stand
    assert open_video(path).frames == 6
    for kept in (len(content) - 1, len(content) // 2, len(content) // 5):
        path.write_bytes(content[:kept])
        with pytest.raises(UnreadableFileError):
            open_video(path)


@needs_av
@pytest.mark.parametrize("suffix", ["mkv", "webm", "avi"])
def test_a_film_that_is_cut_off_is_no_shorter_one(tmp_path: Path, suffix: str) -> None:
    import av

    path = tmp_path / f"clip.{suffix}"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libvpx" if suffix == "webm" else "mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for pixels in np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()
    assert open_video(path).frames == 12
    for kept in (len(content) - 1, len(content) * 3 // 4, len(content) // 2):
        path.write_bytes(content[:kept])
        with pytest.raises(UnreadableFileError, match="cut off"):
            open_video(path)


def test_a_frame_that_is_there_in_two_formats_is_not_taken_twice(tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "2.jpg"):
        still(tmp_path / name)
    with pytest.raises(UnreadableFileError, match=r"2\.jpg and 2\.png may be the same frame"):
        open_video(tmp_path)


def still(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (level, level, level)).save(path)
    return path


def moving(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [Image.new("RGB", (8, 6), (level, 0, 0)) for level in (0, 90, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def test_a_folder_of_images_is_a_clip_whose_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1, 100):
        still(tmp_path / f"frame{number}.png", number)
    assert clips_below(tmp_path) == [tmp_path]
    assert open_video(tmp_path).read(range(4))[:, 0, 0, 0].tolist() == [1, 2, 10, 100]


def test_of_other_folders_every_file_and_every_folder_of_images_is_a_clip(tmp_path: Path) -> None:
    still(tmp_path / "b" / "1.jpg")
    still(tmp_path / "a" / "deep" / "1.webp")
    still(tmp_path / "a" / "deep" / "2.webp")
    films = [moving(tmp_path / "c" / name) for name in ("one.gif", "two.webp")]
    np.save(tmp_path / "clip.npy", np.zeros((2, 4, 4), np.uint8))
    poster = still(tmp_path / "poster.jpg")
    expected = [tmp_path / "a" / "deep", tmp_path / "b", *films, tmp_path / "clip.npy", poster]
    assert clips_below(tmp_path) == sorted(expected)


def test_what_lies_beside_frames_is_told_but_for_what_file_managers_hide(tmp_path: Path) -> None:
    still(tmp_path / "1.png")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    still(tmp_path / "__MACOSX" / "._1.png")
    damaged = tmp_path / "films" / "damaged.gif"
    damaged.parent.mkdir()
    damaged.write_bytes(b"GIF89a")
    assert clips_below(tmp_path) == [tmp_path, damaged.parent, tmp_path / "notes.txt"]


@pytest.mark.parametrize("suffix", ["webp", "tif", "gif", "png"])
def test_a_single_picture_is_no_clip_whatever_its_format(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UnreadableFileError, match="single picture"):
        open_video(still(tmp_path / f"photo.{suffix}"))
