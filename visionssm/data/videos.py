"""Reading frames of clips: video files, folders of frames, arrays and animated images.

Video files need PyAV (extra `video`). A file is opened as what its name says and nothing else, so that no playlist in
it is followed to other files or addresses.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image

from visionssm.data.endings import ends_early
from visionssm.data.errors import UnreadableFileError
from visionssm.data.folders import files_below, regular_file
from visionssm.data.images import MAX_DECODED_PIXELS, SUFFIXES, UnreadableImageError, read_image, to_8_bit
from visionssm.extras import needs_extra

CONTAINERS = {
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".3gp"), "mov"),
    **dict.fromkeys((".mkv", ".webm"), "matroska"),
    **dict.fromkeys((".mpg", ".mpeg"), "mpeg"),
    **{".avi": "avi", ".ts": "mpegts", ".flv": "flv", ".ogv": "ogg", ".wmv": "asf"},
}
"""End of a video file's name: what it is opened as."""

ARRAYS = (".npy", ".npz")
ANIMATIONS = (".gif", ".webp", ".apng", ".tif", ".tiff")
CLIPS = (*CONTAINERS, *ARRAYS, *ANIMATIONS)
"""Names of files that are clips end in one of these, whatever the case."""

_MAY_MOVE = (*ANIMATIONS, ".png", ".avif")

MAX_CLIP_PIXELS = 1 << 26
"""Most pixels of the frames that are read together, 200 MB; larger frames are shrunk."""

MAX_ARRAY_BYTES = 1 << 31


class Video(Protocol):
    """A clip that can be read."""

    @property
    def frames(self) -> int:
        """How many there are, at least one."""

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        """(n, H, W, 3) uint8 frames of rising numbers, some of which may be the same.

        Raises:
            UnreadableFileError: they cannot be decoded.
        """


def open_video(path: str | Path) -> Video:
    """A clip by the kind of its file or folder.

    - a folder: its image files are the frames, in the order of the numbers in their names;
    - `.npy`, `.npz` (one array, or the one named frames): (T, H, W), (T, H, W, 1) or (T, H, W, 3), of bytes or of
      floats from 0 to 1;
    - animated GIF, WebP, PNG, TIFF;
    - video files, by PyAV: the first stream of pictures, upright, frame by frame whatever time each is shown.

    Frames of more than `MAX_CLIP_PIXELS` together are shrunk.

    Raises:
        UnreadableFileError: it is missing, none of these, damaged, or without frames.
        MissingExtraError: (an ImportError) PyAV is not installed.
    """
    path = Path(path)
    if path.is_dir():
        return FrameFolder.of(path)
    suffix = regular_file(path).suffix.lower()
    if suffix in CONTAINERS:
        return VideoFile.of(path)
    with _reasons(path):
        if not path.stat().st_size:
            raise UnreadableFileError(path, "the file is empty")
        if suffix in ARRAYS:
            return ArrayClip.of(path)
        if suffix in SUFFIXES or suffix in ANIMATIONS:
            return Animation.of(path)
    raise UnreadableFileError(
        path, f"{suffix or 'a name without suffix'} is no kind of clip; known are {', '.join(CLIPS)}"
    )


@contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file, as an UnreadableFileError."""
    try:
        yield
    except (UnreadableFileError, ImportError):
        raise
    except Exception as error:  # decoders of damaged data raise whatever comes
        raise UnreadableFileError(path, f"it is no clip ({type(error).__name__}: {error})") from error


def _check_whole(path: Path) -> None:
    if ends_early(path):
        raise UnreadableFileError(path, "it is shorter than it says itself; the file is cut off")


@dataclass(frozen=True)
class FrameFolder:
    """Image files in a folder."""

    path: Path
    files: Sequence[Path]

    @classmethod
    def of(cls, path: Path) -> FrameFolder:
        files = frame_files(path)
        if not files:
            raise UnreadableFileError(path, "the folder has no image files")
        named: dict[str, Path] = {}
        for file in files:
            other = named.setdefault(file.stem, file)
            if other is not file:
                raise UnreadableFileError(
                    path, f"{other.name} and {file.name} may be the same frame; keep one kind of files in a folder"
                )
        return cls(path, files)

    @property
    def frames(self) -> int:
        return len(self.files)

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        most = MAX_CLIP_PIXELS // len(numbers)
        try:
            read = {n: np.asarray(read_image(self.files[n], max_pixels=most)) for n in set(numbers)}
        except UnreadableImageError as error:
            raise UnreadableFileError(error.path, error.reason) from error
        first = read[numbers[0]].shape
        for number, frame in read.items():
            if frame.shape != first:
                sizes = " and ".join("×".join(map(str, shape[1::-1])) for shape in (first, frame.shape))
                raise UnreadableFileError(
                    self.path, f"its frames have different sizes, {sizes} ({self.files[number].name})"
                )
        return np.stack([read[n] for n in numbers])


def frame_files(folder: Path) -> list[Path]:
    """Image files in a folder, 2.jpg before 10.jpg."""
    found = [x for x in folder.iterdir() if not x.name.startswith(".") and x.suffix.lower() in SUFFIXES and x.is_file()]
    return sorted(found, key=lambda x: (_numbered(x.name), x.name))


def _numbered(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _parts(name)]


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"([0-9]+)", name) if part]


def clips_below(folder: str | Path, suffixes: Sequence[str] | None = None) -> list[Path]:
    """The clips in and below a folder: its files, and folders of frames in place of the images in them.

    A folder is one clip if there are images in it and no clips beside them, which are videos, arrays and images that
    move. Otherwise each of its files is one, and so is told to be a single picture or no clip if it is.

    Args:
        folder: where to look; it may be a clip itself.
        suffixes: see `files_below`, which says in what order, too.
    """
    inside: dict[Path, list[Path]] = {}
    for file in files_below(folder, suffixes):
        inside.setdefault(file.parent, []).append(file)
    found: list[Path] = []
    for place, files in inside.items():
        images = {file for file in files if file.suffix.lower() in SUFFIXES}
        clips = any(_moves(x) if x in images else x.suffix.lower() in CLIPS for x in files)
        found += files if clips or not images else [place, *(x for x in files if x not in images)]
    return sorted(found)


def _moves(path: Path) -> bool:
    """Whether an image is animated; one that cannot be read is not."""
    if path.suffix.lower() not in _MAY_MOVE:
        return False
    try:
        with path.open("rb") as file, Image.open(file) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # damaged, no image, no permission: told when it is read
        return False


@dataclass(frozen=True)
class ArrayClip:
    """Frames in a NumPy file."""

    path: Path
    shape: tuple[int, ...]

    @classmethod
    def of(cls, path: Path) -> ArrayClip:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                shape, dtype = _header(file)
        else:
            with zipfile.ZipFile(path) as archive, archive.open(_member(archive)) as member:
                shape, dtype = _header(member)
        if len(shape) == 3:
            shape = (*shape, 1)
        if len(shape) != 4 or shape[3] not in (1, 3) or not all(shape[1:]):
            raise ValueError(f"an array of shape {shape} is not (T, H, W), (T, H, W, 1) or (T, H, W, 3)")
        if dtype != np.uint8 and dtype.kind != "f":
            raise ValueError(f"it has values of the type {dtype}; give bytes, or floats from 0 to 1")
        size = int(np.prod([float(n) for n in shape])) * dtype.itemsize
        if size > MAX_ARRAY_BYTES and path.suffix.lower() == ".npz":
            raise ValueError(f"its {size:,} bytes are more than the {MAX_ARRAY_BYTES:,} that are unpacked; give .npy")
        if not shape[0]:
            raise UnreadableFileError(path, "it has no frames")
        return cls(path, shape)

    @property
    def frames(self) -> int:
        return self.shape[0]

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        with _reasons(self.path):
            if self.path.suffix.lower() == ".npy":
                chosen = np.load(self.path, mmap_mode="r", allow_pickle=False)[list(numbers)]
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(_member(archive)) as member:
                    chosen = np.lib.format.read_array(member, allow_pickle=False)[list(numbers)]
            frames = chosen.reshape(len(numbers), *self.shape[1:])
            if frames.dtype != np.uint8:
                if not (np.isfinite(frames).all() and frames.min() >= -1e-3 and frames.max() <= 1.001):
                    raise ValueError("it has floats outside of 0 to 1")
                frames = (frames.clip(0, 1) * 255).round().astype(np.uint8)
            return _shrunk(np.broadcast_to(frames, (*frames.shape[:3], 3)))


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def _member(archive: zipfile.ZipFile) -> str:
    names = archive.namelist()
    if "frames.npy" in names:
        return "frames.npy"
    if len(names) != 1:
        raise ValueError(f"it holds {len(names)} arrays and none that is named 'frames'")
    return names[0]


@dataclass(frozen=True)
class Animation:
    """An animated image."""

    path: Path
    frames: int

    @classmethod
    def of(cls, path: Path) -> Animation:
        with path.open("rb") as file, Image.open(file) as image:
            if image.width * image.height > MAX_DECODED_PIXELS:
                raise ValueError(f"{image.width}×{image.height} pixels are too many")
            count = int(getattr(image, "n_frames", 1))
        _check_whole(path)
        if count == 1:
            raise UnreadableFileError(path, "it is a single picture, not a clip; a folder of pictures is one")
        return cls(path, count)

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        read: dict[int, np.ndarray] = {}
        with _reasons(self.path), self.path.open("rb") as file, Image.open(file) as image:
            for number in sorted(set(numbers)):
                image.seek(number)
                read[number] = _shrunk(np.asarray(to_8_bit(image))[None], len(numbers))[0]
            return np.stack([read[n] for n in numbers])


@dataclass(frozen=True)
class VideoFile:
    """A video file that PyAV decodes."""

    path: Path
    announced: int

    @classmethod
    def of(cls, path: Path) -> VideoFile:
        """The file, if it has a picture: its header and the first packet are looked at."""
        with _decoder(path) as container:
            stream = container.streams.video[0]
            if (stream.width or 0) * (stream.height or 0) > MAX_DECODED_PIXELS:
                raise ValueError(f"{stream.width}×{stream.height} pixels are too many")
            if not any(packet.size for packet in container.demux(stream)):
                raise UnreadableFileError(path, "it has no frames")
            _check_whole(path)
            return cls(path, int(stream.frames))

    @cached_property
    def frames(self) -> int:
        """The packets that are shown: what an edit list cuts away, as phones do when a clip is trimmed, is not.

        Raises:
            UnreadableFileError: there are fewer packets than the header says.
        """
        shown, there = self._packets()
        if there < self.announced:
            there = self._packets(ignore_editlist="1")[1]
        if there < self.announced:
            raise self._damaged(there, self.announced)
        if not shown:
            raise UnreadableFileError(self.path, "it has no frames")
        return shown

    def _packets(self, **options: str) -> tuple[int, int]:
        """How many are shown, and how many there are."""
        with _decoder(self.path, **options) as container:
            hidden = [packet.is_discard for packet in container.demux(container.streams.video[0]) if packet.size]
        return hidden.count(False), len(hidden)

    def _damaged(self, found: int, expected: int) -> UnreadableFileError:
        reason = f"only {found} of its {expected} frames can be decoded; the file is damaged or cut off"
        return UnreadableFileError(self.path, reason)

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        wanted, read, seen = set(numbers), {}, 0
        with _decoder(self.path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                if seen in wanted:
                    read[seen] = _shrunk(_upright(frame)[None], len(numbers))[0]
                seen += 1
                if len(read) == len(wanted):
                    break
            if len(read) < len(wanted):
                raise self._damaged(seen, self.frames)
            return np.stack([read[n] for n in numbers])


def _upright(frame: Any) -> np.ndarray:
    """(H, W, 3) bytes of a frame of PyAV, turned and mirrored as its display matrix says: phones film on their side."""
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()  # a pixel (x, y) is shown at (ax + cy, bx + dy)
    turned = abs(b) > abs(a)
    if turned:
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


@contextmanager
def _decoder(path: Path, **more: str) -> Iterator[Any]:
    """The open container of a video file, which can reach no other file; `more` are options of FFmpeg's reader."""
    with needs_extra("video", f"the video file {str(path)!r}"):
        import av

    if not path.stat().st_size:
        raise UnreadableFileError(path, "the file is empty")
    options = {"protocol_whitelist": "pipe", **more}
    kind = CONTAINERS[path.suffix.lower()]
    with _reasons(path), path.open("rb") as file, av.open(file, format=kind, options=options) as container:
        if not container.streams.video:
            raise UnreadableFileError(path, "it has no stream of pictures")
        yield container


def _shrunk(frames: np.ndarray, together: int | None = None) -> np.ndarray:
    """(n, H, W, 3) frames, shrunk where `together` of their size have too many pixels."""
    count, height, width, _ = frames.shape
    scale = (MAX_CLIP_PIXELS / ((together or count) * height * width)) ** 0.5
    if scale >= 1:
        return frames
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return np.stack([np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BOX)) for x in frames])
