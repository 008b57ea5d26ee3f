"""Video files as phones, cameras and editors write them: turned, trimmed, uneven in time, cut off, without frames."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.data.test_videos import levels, write_video
from visionssm.data.errors import UnreadableFileError
from visionssm.data.videos import open_video

av = pytest.importorskip("av", reason="PyAV, of the extra video")


def corners(count: int = 2, height: int = 32, width: int = 48) -> np.ndarray:
    """(T, H, W, 3) frames, each corner of another colour."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:, : height // 2, : width // 2] = [200, 40, 40]
    frames[:, height // 2 :, : width // 2] = [40, 200, 40]
    frames[:, height // 2 :, width // 2 :] = [40, 40, 200]
    return frames


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal but for a lossy code and the edges in it."""
    assert found.shape == expected.shape
    return bool(np.mean(np.abs(found.astype(int) - expected)) < 8)


MATRICES: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "quarter turn": ((0, 1, -1, 0), lambda x: np.rot90(x, -1, (1, 2))),
    "half turn": ((-1, 0, 0, -1), lambda x: np.rot90(x, 2, (1, 2))),
    "turn back": ((0, -1, 1, 0), lambda x: np.rot90(x, 1, (1, 2))),
    "mirrored": ((-1, 0, 0, 1), lambda x: x[:, :, ::-1]),
    "mirrored and turned": ((0, 1, 1, 0), lambda x: x.swapaxes(1, 2)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_frames_are_turned_and_mirrored_as_the_display_matrix_says(tmp_path: Path, name: str) -> None:
    (a, b, c, d), shown = MATRICES[name]
    content = bytearray(write_video(tmp_path / "clip.mp4", corners()).read_bytes())
    start = content.index(b"tkhd") + 44
    content[start : start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    (tmp_path / "clip.mp4").write_bytes(content)
    assert near(open_video(tmp_path / "clip.mp4").read([0, 1]), shown(corners()))


def test_what_an_edit_list_cuts_away_is_no_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", levels(12, 32, 32))
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        ticks = int(container.streams.video[0].duration) // 12
    start = content.index(b"elst") + 16  # after version, count and duration: the time that it begins at
    content[start : start + 4] = struct.pack(">i", 4 * ticks)
    path.write_bytes(content)
    video = open_video(path)
    assert video.frames == 8
    assert near(video.read([0, 7]), levels(12, 32, 32)[[4, 11]])


def test_frames_count_whatever_time_they_are_shown(tmp_path: Path) -> None:
    frames = levels(6, 32, 32)
    with av.open(str(tmp_path / "clip.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, pixels in zip((0, 40, 50, 900, 910, 2000), frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = open_video(tmp_path / "clip.mkv")
    assert video.frames == 6
    assert near(video.read([0, 3, 5]), frames[[0, 3, 5]])


KINDS = {
    "odd.mp4": ("mpeg4", "yuv420p", 33, 47),
    "deep.mkv": ("ffv1", "yuv420p10le", 32, 48),
    "whole.mkv": ("ffv1", "yuv444p", 31, 45),
    "web.webm": ("libvpx", "yuv420p", 32, 48),
    "grey.mkv": ("ffv1", "gray", 32, 48),
}


@pytest.mark.parametrize("name", KINDS)
def test_odd_sides_ten_bits_and_other_codes_become_colours_of_eight(tmp_path: Path, name: str) -> None:
    codec, kind, height, width = KINDS[name]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    frames = levels(9, height, width) if kind == "gray" else corners(9, height, width)
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = height, width, kind
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=kind)))
        container.mux(stream.encode())
    video = open_video(tmp_path / name)
    assert video.frames == 9
    assert near(video.read([0, 4, 8]), frames[[0, 4, 8]])


def test_a_video_of_one_frame_is_a_clip_of_as_many_as_are_asked_for(tmp_path: Path) -> None:
    video = open_video(write_video(tmp_path / "clip.mp4", corners(1)))
    assert video.frames == 1
    assert near(video.read([0, 0, 0, 0]), corners(4))


def test_a_video_whose_end_is_missing_is_refused_and_not_taken_as_a_shorter_one(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
    with av.open(str(tmp_path / "clip.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        for pixels in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    content = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "clip.mp4").write_bytes(content[: len(content) * 2 // 3])
    video = open_video(tmp_path / "clip.mp4")
    with pytest.raises(UnreadableFileError, match=r"only \d of its 9 frames can be decoded; .* or cut off"):
        video.frames  # noqa: B018


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_nothing(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        container.start_encoding()


WITHOUT = {"sound.mkv": (write_sound, "no stream of pictures"), "empty.mkv": (write_nothing, "no frames|no clip")}


@pytest.mark.parametrize("name", WITHOUT)
def test_sound_alone_and_a_video_without_frames_are_told(tmp_path: Path, name: str) -> None:
    write, told = WITHOUT[name]
    write(tmp_path / name)
    with pytest.raises(UnreadableFileError, match=told):
        open_video(tmp_path / name)
