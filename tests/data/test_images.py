"""Reading images of every kind, and naming the files that cannot be read."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from visionssm.data import images
from visionssm.data.images import (
    ImageHeader,
    UnreadableImageError,
    inspect_images,
    read_image,
    read_numbers,
    to_8_bit,
)


def save(path: Path, pixels: Any, **options: Any) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def corner_image() -> Image.Image:
    """6 wide, 4 high, black, the upper left corner white."""
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255
    return Image.fromarray(pixels)


def values(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image)


def test_8_bit_rgb_is_returned_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(values(read_image(save(tmp_path / "a.png", pixels))), pixels)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("stored", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_stored_mode_becomes_the_one_asked_for(tmp_path: Path, stored: str, mode: Any) -> None:
    wide = {"I;16": (200 * 257, np.uint16), "I": (200 * 257, np.int32), "F": (200 / 255, np.float32)}
    expected = 255 if stored in ("1", "P") else 200  # what two colours, or a standard palette, can hold
    if stored in wide:
        value, dtype = wide[stored]
        image = Image.fromarray(np.full((4, 6), value, dtype))
    else:
        image = Image.new("RGB", (6, 4), (expected,) * 3).convert(stored)
    suffix = "tiff" if stored in ("CMYK", "YCbCr", "F", "I") else "png"
    read = read_image(save(tmp_path / f"a.{suffix}", image), mode)
    assert (read.mode, read.size) == (mode, (6, 4))
    np.testing.assert_allclose(values(read), expected, atol=1)


def test_lab_colours_are_read_as_rgb(tmp_path: Path) -> None:
    read = values(read_image(save(tmp_path / "a.tiff", Image.new("LAB", (4, 4), (255, 128, 128)))))
    np.testing.assert_allclose(read, 255, atol=2)
    gray = values(read_image(save(tmp_path / "b.tiff", Image.new("LAB", (4, 4), (136, 128, 128))), "L"))
    np.testing.assert_allclose(gray, 127, atol=3)


def test_cmyk_jpeg_is_read_as_rgb(tmp_path: Path) -> None:
    read = read_image(save(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0))))
    red = values(read)[8, 8]
    assert red[0] > 200
    assert red[1:].max() < 60


@settings(deadline=None)
@given(value=st.integers(0, 65535))
def test_16_bit_values_are_scaled_by_the_full_range(tmp_path_factory: pytest.TempPathFactory, value: int) -> None:
    pixels = np.full((2, 2), value, np.uint16)
    read = read_image(save(tmp_path_factory.mktemp("bits") / "a.png", pixels), "L")
    assert values(read)[0, 0] == round(value / 257)


def test_floats_beyond_one_are_stretched_and_nan_is_zero(tmp_path: Path) -> None:
    pixels = np.array([[-10.0, 0.0, 30.0, np.nan]], np.float32)
    read = values(read_image(save(tmp_path / "a.tiff", pixels), "L"))
    np.testing.assert_array_equal(read, [[0, 64, 255, 64]])


def test_constant_float_image_is_black_not_an_error(tmp_path: Path) -> None:
    assert values(read_image(save(tmp_path / "a.tiff", np.full((2, 2), -3.0, np.float32)))).max() == 0


def test_transparent_pixels_are_white_whatever_colour_hides_there(tmp_path: Path) -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[..., 0] = 255  # red: transparent, half, opaque
    pixels[0, :, 3] = 0, 128, 255
    read = values(read_image(save(tmp_path / "a.png", pixels)))
    np.testing.assert_array_equal(read[0], [[255, 255, 255], [255, 127, 127], [255, 0, 0]])


def test_transparent_palette_entry_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    read = values(read_image(save(tmp_path / "a.png", image, transparency=0)))
    np.testing.assert_array_equal(read[0], [[255, 255, 255], [0, 0, 255]])


# Where the white upper left corner goes when the camera says how it was held: (row, column) in the upright image.
UPRIGHT = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
@pytest.mark.parametrize("max_pixels", [24, 12], ids=["full", "shrunk"])
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int, max_pixels: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", corner_image(), exif=exif)
    read = read_image(path, "L", max_pixels=max_pixels)
    assert (read.width > read.height) == (orientation < 5)
    brightest = np.unravel_index(values(read).argmax(), values(read).shape)
    rows, columns = values(read).shape
    row, column = UPRIGHT[orientation]
    assert brightest == (row % rows, column % columns)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_hide_the_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", corner_image(), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    assert read_image(path).size == (6, 4)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(values(read_image(path))[0, 0], [255, 0, 0])


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@settings(deadline=None)
@given(width=st.integers(1, 70), height=st.integers(1, 70), max_pixels=st.integers(1, 900))
def test_result_never_exceeds_max_pixels_and_keeps_its_shape(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, width: int, height: int, max_pixels: int
) -> None:
    path = save(tmp_path_factory.mktemp("sizes") / f"a.{suffix}", Image.new("RGB", (width, height), "orange"))
    read = read_image(path, max_pixels=max_pixels)
    assert read.width * read.height <= max_pixels
    assert (read.width <= read.height) if width < height else (read.width >= read.height)
    if width * height <= max_pixels:
        assert read.size == (width, height)
    if min(read.size) > 8:
        assert read.width / read.height == pytest.approx(width / height, rel=0.15)
    np.testing.assert_allclose(values(read)[0, 0], [255, 165, 0], atol=4)


def test_image_beyond_the_limit_of_pillow_is_shrunk_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.png", Image.new("L", (300, 200), 7))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    assert read_image(path, "L", max_pixels=6000).size == (94, 63)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_huge_jpeg_is_decoded_at_an_eighth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.jpg", Image.new("RGB", (1600, 800), "orange"))
    monkeypatch.setattr(images, "MAX_DECODED_PIXELS", 1600 * 800 // 60)
    assert read_image(path, max_pixels=200 * 100).size == (200, 100)


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def test_image_too_large_to_decode_is_named_with_its_size(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"100000×100000 pixels are more than the 536,870,912"):
        read_image(bomb(tmp_path / "a.png", 100_000, 100_000))


def test_truncated_image_is_unreadable_at_any_length(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for suffix in ("jpg", "png", "gif", "webp", "tiff", "bmp"):
        content = save(tmp_path / f"whole.{suffix}", noise).read_bytes()
        for share in (0.02, 0.3, 0.6):
            path = tmp_path / f"cut.{suffix}"
            path.write_bytes(content[: int(share * len(content))])
            with pytest.raises(UnreadableImageError, match=r"cut\."):
                read_image(path)


@settings(deadline=None)
@given(
    content=st.binary(max_size=200),
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM"]),
)
def test_arbitrary_bytes_are_unreadable_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "a.png"
    path.write_bytes(start + content)
    with pytest.raises(UnreadableImageError) as caught:
        read_image(path)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "the file is empty"),
        ("notes.txt", b"not an image", "not an image in a format that Pillow knows"),
        ("absent.jpg", None, "no such file"),
    ],
)
def test_reason_is_given(tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImageError, match=reason):
        read_image(tmp_path / name)
    with pytest.raises(UnreadableImageError, match="it is a folder"):
        read_image(tmp_path)


def test_invalid_arguments_are_refused(tmp_path: Path) -> None:
    path: Any = save(tmp_path / "a.png", corner_image())
    with pytest.raises(ValueError, match="mode must be 'RGB' or 'L', got 'HSV'"):
        read_image(path, "HSV")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_pixels must be at least 1"):
        read_image(path, max_pixels=0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
def test_header_tells_the_sizes_that_reading_gives(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", corner_image(), exif=exif)
    header = inspect_images([path])[0]
    assert isinstance(header, ImageHeader)
    assert header.upright == read_image(path).size == ((6, 4) if orientation < 5 else (4, 6))
    assert header.stored == read_image(path, upright=False).size
    assert header.turned == (orientation != 1 and suffix != "tiff")


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_turned_files_that_pillow_maps_into_memory_keep_their_pixels(tmp_path: Path, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 2, 3), np.uint8)).convert(mode)
    path = save(tmp_path / "a.tiff", image, exif=exif)
    expected = image.transpose(Image.Transpose.ROTATE_270).convert("RGB")
    np.testing.assert_array_equal(values(read_image(path)), values(expected))
    np.testing.assert_array_equal(values(read_image(path)).shape[1::-1], inspect_images([path])[0].upright)


def test_orientation_in_metadata_text_of_png_files_is_seen(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    path = save(tmp_path / "a.png", corner_image(), pnginfo=text)
    header = inspect_images([path])[0]
    assert isinstance(header, ImageHeader)
    assert (header.stored, header.upright) == ((6, 4), (4, 6)) == (header.stored, read_image(path).size)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tiff", "gif"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_files_that_end_too_early_are_told_without_reading_them(tmp_path: Path, suffix: str, share: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    path = save(tmp_path / f"a.{suffix}", pixels)
    assert isinstance(inspect_images([path])[0], ImageHeader)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    found = inspect_images([path])[0]
    assert isinstance(found, UnreadableImageError)
    assert "decoded" in found.reason


def test_whole_jpeg_and_png_files_are_not_decoded_to_look_at_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [save(tmp_path / name, corner_image()) for name in ("a.jpg", "b.png")]

    def decode(*_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    assert [header.stored for header in inspect_images(paths) if isinstance(header, ImageHeader)] == [(6, 4), (6, 4)]


def test_what_is_no_file_is_told_as_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name, reason in (
        ("pipe.png", "named pipe"),
        ("lost.png", "a link to a file that is not there"),
        ("loop.png", "cannot be opened"),
        ("n" * 300, "cannot be opened"),
        ("a\0.png", "cannot be opened"),
    ):
        with pytest.raises(UnreadableImageError, match=reason):
            read_image(tmp_path / name)
    with pytest.raises(UnreadableImageError, match=r"cannot be opened|no such file"):
        read_image("~nobody-of-this-name/a.png")


def test_files_named_with_a_tilde_are_read_and_the_home_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "~a.png", corner_image())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_image("~a.png").size == read_image("~/~a.png").size == (6, 4)


def test_open_files_are_read_and_named_where_they_are_damaged(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", corner_image())
    with path.open("rb") as file:
        np.testing.assert_array_equal(values(read_image(file)), values(corner_image()))
    path.write_bytes(b"nothing")
    with path.open("rb") as file, pytest.raises(UnreadableImageError, match=r"a\.png"):
        read_image(file)


def test_colours_that_stand_for_transparency_are_white_in_16_bits_too(tmp_path: Path) -> None:
    pixels = np.array([[0, 500, 65535]], np.uint16)
    path = save(tmp_path / "a.png", pixels, transparency=500)
    np.testing.assert_array_equal(values(read_image(path, "L")), [[0, 255, 255]])


def test_image_opened_elsewhere_is_converted_by_the_same_rules(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    path = save(tmp_path / "a.png", pixels, exif=exif)
    with Image.open(path) as image:
        np.testing.assert_array_equal(values(to_8_bit(image)), values(read_image(path)))
    with pytest.raises(ValueError, match="mode must be"):
        to_8_bit(corner_image(), "HSV")  # type: ignore[arg-type]


def test_numbers_are_those_in_the_file(tmp_path: Path) -> None:
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(indices, mode="P")
    image.putpalette([7, 8, 9] * 12)
    np.testing.assert_array_equal(read_numbers(save(tmp_path / "a.png", image, transparency=3)), indices)
    wide = indices.astype(np.uint16) * 1000
    np.testing.assert_array_equal(read_numbers(save(tmp_path / "b.png", wide)), wide)
