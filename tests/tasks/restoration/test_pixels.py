"""Resizing, degradations, pairs, measures, tiles and image files are as the field has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.images import UnreadableImageError
from visionssm.tasks.restoration.data import RestorationFolder, turned
from visionssm.tasks.restoration.degradations import degradation_of, plain
from visionssm.tasks.restoration.inference import Tiling, restored
from visionssm.tasks.restoration.measures import luma, measured, psnr, ssim
from visionssm.tasks.restoration.metric import RestorationMetric
from visionssm.tasks.restoration.model import ImageRestorer
from visionssm.tasks.restoration.photo import Photo, quantised, read_photo, write_png
from visionssm.tasks.restoration.resize import resized
from visionssm.tasks.restoration.results import OfPixels, restored_photo
from visionssm.tasks.restoration.textures import RenderedTextures, TexturesSpec, render
from visionssm.tasks.restoration.tiles import tiled

SPEC = {"size": 48, "train": 4, "val": 2, "test": 1}


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4, 2, 3])
def test_bicubic_is_pytorchs_antialiased_one_away_from_the_borders(scale: float) -> None:
    pixels = noise(48, 60, 3)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    expected = F.interpolate(image, scale_factor=scale, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    found, edge = resized(pixels, scale), 3 if scale < 1 else 3 * int(scale)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[edge:-edge, edge:-edge], expected[edge:-edge, edge:-edge], atol=1e-9)


def test_bicubic_continues_an_image_as_in_a_mirror() -> None:
    pixels = noise(12, 18)
    larger = np.pad(pixels, 12, mode="symmetric")
    np.testing.assert_allclose(resized(pixels, 1 / 3), resized(larger, 1 / 3)[4:-4, 4:-4], atol=1e-9)


@pytest.mark.parametrize("scale", [1 / 4, 1 / 2, 2, 3])
def test_bicubic_keeps_a_straight_slope_and_an_image_of_one_pixel(scale: float) -> None:
    slope = np.add.outer(np.arange(48.0), 2 * np.arange(48.0))
    steps = (np.arange(48 * scale) + 0.5) / scale - 0.5
    inside = slice(12, -12) if scale > 1 else slice(3, -3)
    np.testing.assert_allclose(resized(slope, scale)[inside, inside], np.add.outer(steps, 2 * steps)[inside, inside])
    np.testing.assert_allclose(resized(np.full((1, 1), 7.0), scale), np.full((max(1, int(scale)),) * 2, 7.0))
    with pytest.raises(ValueError, match="cannot be resized"):
        resized(np.zeros((0, 4)), scale)


# Of scikit-image 0.26's `peak_signal_noise_ratio` and `structural_similarity` with Gaussian weights of σ = 1.5 and the
# population's covariance, for the arrays that the test makes.
SKIMAGE = {
    (31, 44, 3): (23.564839401633794, 0.9735941583485781),
    (11, 11, 1): (22.980499246548497, 0.9691081004409751),
    (40, 25, 1): (23.715941766285514, 0.9730438297750567),
}


def test_measures_are_scikit_images() -> None:
    generator = np.random.default_rng(0)
    for shape, (expected_psnr, expected_ssim) in SKIMAGE.items():
        true = generator.integers(0, 256, shape).astype(np.uint8)
        found = (true.astype(int) + generator.integers(-30, 31, shape)).clip(0, 255).astype(np.uint8)
        assert psnr(found, true) == pytest.approx(expected_psnr, rel=1e-12)
        assert ssim(found, true) == pytest.approx(expected_ssim, rel=1e-12)


def test_luma_is_that_of_studio_range_and_the_border_is_left_out() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0]]], np.uint8)
    np.testing.assert_allclose(luma(colours)[0], [16, 235, 81.481, 144.553], atol=1e-9)
    pixels = noise(9, 10, 3)
    assert measured(pixels, "y", 2).shape == (5, 6, 1)
    assert measured(pixels, "rgb", 2).shape == (5, 6, 3)
    assert measured(pixels, "y", 100).shape == (1, 2, 1), "something is always left"
    assert psnr(pixels, pixels) == np.inf
    assert np.isnan(ssim(pixels, pixels))
    with pytest.raises(ValueError, match="cannot be compared"):
        psnr(pixels, pixels[1:])


DEGRADATIONS: list[dict[str, Any]] = [
    *({"type": "downscale", "scale": scale} for scale in (2, 3, 4)),
    {"type": "jpeg", "quality": 30},
    {"type": "noise", "sigma": 0},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images whose sides no scale divides."""
    path = tmp_path_factory.mktemp("images")
    for number in range(3):
        smooth = resized(noise(14, 17, 3, seed=number), 7).clip(0, 255).astype(np.uint8)
        Image.fromarray(smooth[:-1, :-2]).save(path / f"{number}.png")
    return path


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spec", DEGRADATIONS, ids=lambda spec: f"{spec['type']}{spec.get('scale', '')}")
def test_patches_are_parts_of_the_whole_degraded_image(folder: Path, spec: dict[str, Any], channels: int) -> None:
    whole = RestorationFolder(folder, degradation=spec, channels=channels)
    patches = RestorationFolder(folder, degradation=spec, channels=channels, patch=7, repeat=2)
    scale = whole.degradation.scale
    for index in range(len(patches)):
        torch.manual_seed(index)
        generator = np.random.default_rng(int(torch.randint(2**31, ())))
        torch.manual_seed(index)
        part, full = patches[index], whole[index % 3]
        top, left = (int(generator.integers(side - 6)) for side in full["inputs"].shape[1:])
        bad = full["inputs"][:, top : top + 7, left : left + 7].permute(1, 2, 0).numpy()
        good = full["clean"][:, scale * top : scale * (top + 7), scale * left : scale * (left + 7)]
        symmetry = int(generator.integers(8)) if spec["type"] != "noise" else None
        if symmetry is None:  # the noise was drawn between
            assert any(torch.equal(part["clean"], _chw(turned(good.permute(1, 2, 0).numpy(), n))) for n in range(8))
            continue
        torch.testing.assert_close(part["inputs"], _chw(turned(bad, symmetry)), atol=1e-6, rtol=0)
        assert torch.equal(part["clean"], _chw(turned(good.permute(1, 2, 0).numpy(), symmetry)))


def _chw(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def test_noise_is_gaussian_not_clipped_and_always_the_same_in_evaluations(tmp_path: Path) -> None:
    Image.new("RGB", (200, 200), (255, 0, 128)).save(tmp_path / "plain.png")
    data = RestorationFolder(tmp_path, degradation={"type": "noise", "sigma": 25})
    sample = data[0]
    difference = 255 * (sample["inputs"] - sample["clean"].float() / 255)
    assert float(difference.std()) == pytest.approx(25, rel=0.01)
    assert float(difference.mean()) == pytest.approx(0, abs=0.3)
    assert sample["inputs"].max() > 1.05
    assert torch.equal(sample["inputs"], data[0]["inputs"])
    other = RestorationFolder(tmp_path, degradation={"type": "noise", "sigma": 25}, seed=1)
    assert not torch.equal(sample["inputs"], other[0]["inputs"])


def test_given_bad_images_are_paired_by_name_and_their_size_is_checked(folder: Path, tmp_path: Path) -> None:
    for number in range(3):
        with Image.open(folder / f"{number}.png") as image:
            small = image.resize((image.width // 2, image.height // 2))
        small.save(tmp_path / f"{number}x2.png")
    options: dict[str, Any] = {"inputs": str(tmp_path), "suffix": "x2.png"}
    data = RestorationFolder(folder, degradation={"type": "given", "scale": 2}, **options)
    sample = data[1]
    assert sample["clean"].shape[1:] == tuple(2 * side for side in sample["inputs"].shape[1:])
    with Image.open(tmp_path / "1x2.png") as image:
        assert torch.equal((255 * sample["inputs"]).round().byte(), _chw(np.asarray(image)))
    with pytest.raises(DatasetError, match="sides times scale=3 are not those"):
        RestorationFolder(folder, degradation={"type": "given", "scale": 3}, **options)
    (tmp_path / "2x2.png").unlink()
    with pytest.raises(DatasetError, match=r"1 bad images that cannot be read .*'2\.png'"):
        RestorationFolder(folder, degradation={"type": "given", "scale": 2}, **options)
    assert len(RestorationFolder(folder, degradation={"type": "given", "scale": 2}, wrong="skip", **options)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degradation": {"type": "blur"}}, "type='blur' is unknown; choose one of downscale, noise"),
        ({"degradation": {"type": "downscale", "scale": 5}}, "scale must be 2, 3 or 4, got 5"),
        ({"degradation": {"type": "downscale", "factor": 2}}, "downscale does not take these arguments"),
        ({"degradation": {"type": "noise", "sigma": (9, 3)}}, "sigma must be a number, or two rising ones"),
        ({"degradation": {"type": "jpeg", "quality": 0}}, "quality must be a whole number"),
        ({"degradation": {"type": "jpeg", "quality": [10, 40.5]}}, "quality must be a whole number"),
        ({"degradation": {"type": "given"}}, "goes with inputs"),
        ({"inputs": "."}, "goes with inputs"),
        ({"inputs": "missing"}, "looked for the folder"),
        ({"images": "missing"}, "looked for the folder"),
        ({"channels": 4}, "channels must be 1"),
        ({"patch": 0}, "patch must be a whole number"),
        ({"patch": 80}, "3 images smaller than 160×160 pixels"),
    ],
)
def test_wrong_arguments_of_a_set_are_named(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        RestorationFolder(folder, **{"degradation": {"type": "downscale", "scale": 2}, **options})


def test_damaged_files_are_told_when_a_set_is_made_and_when_one_is_read(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = RestorationFolder(tmp_path, degradation={"type": "jpeg", "quality": 30})
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(CorruptImageError, match=r"0\.png"):
        data[0]
    with pytest.raises(DatasetError, match=r"1 files that cannot be read: '0\.png'"):
        RestorationFolder(tmp_path, degradation={"type": "jpeg", "quality": 30})


def test_degradations_are_written_in_plain_types_and_made_again_of_them() -> None:
    for spec in (*DEGRADATIONS, {"type": "noise", "sigma": [5, 50]}, {"type": "given", "scale": 3}):
        assert plain(degradation_of(spec)) == spec


def test_rendered_textures_are_a_function_of_split_and_number(tmp_path: Path) -> None:
    spec = TexturesSpec(**SPEC)
    assert np.array_equal(render(spec, "val", 1), render(spec, "val", 1))
    assert not np.array_equal(render(spec, "val", 1), render(spec, "train", 1))
    data = RenderedTextures("val", root=str(tmp_path), spec=SPEC, degradation={"type": "downscale", "scale": 2})
    assert len(data) == 2
    assert torch.equal(data[1]["clean"], _chw(render(spec, "val", 1)))
    with pytest.raises(DatasetError, match="split must be one of"):
        RenderedTextures("all", degradation={"type": "downscale", "scale": 2})


def blurred(x: torch.Tensor) -> torch.Tensor:
    """A network with a view of two pixels to every side, ×2."""
    kernel = torch.arange(1.0, 26.0).view(1, 1, 5, 5) / 325
    y = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[:, None], kernel)
    return F.interpolate(y[:, 0].unflatten(0, x.shape[:2]), scale_factor=2)


@pytest.mark.parametrize("sides", [(40, 61), (16, 90), (33, 16), (1, 70)])
def test_tiles_of_a_narrow_network_are_the_whole_image_and_of_a_constant_one_seamless(sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    image = torch.rand(3, *sides)
    seen = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape[2:]))
        return blurred(x)

    found = restored(network, image, 2, Tiling(24, 10))
    torch.testing.assert_close(found, blurred(image[None])[0], atol=1e-5, rtol=0)
    assert len(seen) > 1
    assert all(max(shape) <= 24 for shape in seen)
    constant = restored(lambda x: torch.full((1, 3, *(2 * n for n in x.shape[2:])), 0.3), image, 2, Tiling(24, 10))
    torch.testing.assert_close(constant, torch.full_like(constant, 0.3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("tile", [8, 33, 64])
def test_shares_of_tiles_add_up_to_one_for_any_side_and_overlap(tile: int) -> None:
    for overlap in range(0, tile // 2 + 1, max(1, tile // 16)):
        for side in range(1, 4 * tile):
            total = tiled(
                lambda _top, _left, rows, columns: np.ones((1, rows, columns)), (1, 1, side), 1, Tiling(tile, overlap)
            )
            np.testing.assert_allclose(total, 1, atol=1e-6)


def test_tiles_without_overlap_touch_and_wrong_ones_are_refused() -> None:
    image = torch.rand(1, 40, 40)
    assert torch.equal(restored(lambda x: x, image, 1, Tiling(20, 0)), image)
    assert torch.equal(restored(lambda x: x, image, 1, Tiling(None, 0)), image)
    assert torch.equal(restored(lambda x: x, image, 1, Tiling(0, 0)), image)
    for tile, overlap in ((4, 0), (0.0, 0), (20, 11), (20, -1), (20.5, 2)):
        with pytest.raises(ValueError, match="tile"):
            Tiling(tile, overlap)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_written_png_files_are_read_bit_by_bit(tmp_path: Path, dtype: Any, channels: int) -> None:
    pixels = noise(7, 13, channels, dtype=dtype)
    write_png(pixels, tmp_path / "x.png", icc=b"a profile")
    photo = read_photo(tmp_path / "x.png", 100)
    assert (photo.bits, photo.icc) == (8 * pixels.itemsize, b"a profile")
    parts = [photo.pixels] if photo.alpha is None else [photo.pixels, photo.alpha[..., None]]
    assert np.array_equal(np.concatenate([quantised(part, photo.bits) for part in parts], 2), pixels)
    with Image.open(tmp_path / "x.png") as image:  # Pillow keeps the upper bytes of colours
        upper = np.asarray(image) if channels != 2 or dtype == np.uint8 else np.asarray(image)[..., [0, 3]]
        whole = channels == 1 or dtype == np.uint8
        assert np.array_equal(upper.reshape(pixels.shape), pixels if whole else pixels >> 8)


def test_other_files_come_as_grey_or_colours_of_8_bits_with_their_transparency(tmp_path: Path) -> None:
    colours, grey = Image.fromarray(noise(6, 5, 3)), Image.fromarray(noise(6, 5))
    palette = colours.quantize(7)
    cases: dict[str, tuple[Image.Image, dict[str, Any], int, bool]] = {
        "cmyk.jpg": (colours.convert("CMYK"), {}, 3, False),
        "palette.png": (palette, {}, 3, False),
        "clear.png": (palette, {"transparency": 2}, 3, True),
        "bits.png": (grey.convert("1"), {}, 1, False),
        "grey.png": (grey, {"transparency": int(noise(6, 5)[0, 0])}, 1, True),
        "moving.gif": (palette, {"save_all": True, "append_images": [palette.rotate(90)]}, 3, False),
    }
    for name, (image, options, channels, clear) in cases.items():
        image.save(tmp_path / name, **options)
        photo = read_photo(tmp_path / name, 100)
        assert photo.pixels.shape == (6, 5, channels), name
        assert photo.bits == 8
        assert (photo.alpha is not None) == clear, name
        assert photo.alpha is None or set(np.unique(photo.alpha)) == {0.0, 1.0}
    np.testing.assert_allclose(read_photo(tmp_path / "grey.png", 100).pixels[..., 0], noise(6, 5) / 255, atol=1e-6)


def test_levels_of_16_bits_are_kept_of_grey_pnm_files_and_rounded_in_parts_as_in_one(tmp_path: Path) -> None:
    levels = noise(130, 3, dtype=np.uint16)
    (tmp_path / "x.pgm").write_bytes(b"P5 3 130 65535\n" + levels.astype(">u2").tobytes())
    photo = read_photo(tmp_path / "x.pgm", 1000)
    assert photo.bits == 16
    assert np.array_equal(quantised(photo.pixels, 16)[..., 0], levels)
    pixels = np.random.default_rng(0).uniform(-0.2, 1.2, (130, 3))
    assert np.array_equal(quantised(pixels, 8), (pixels.clip(0, 1) * np.float32(255)).round().astype(np.uint8))


def test_orientation_of_the_camera_is_applied_to_photos(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    Image.fromarray(pixels).save(tmp_path / "x.jpg", exif=exif)
    found = read_photo(tmp_path / "x.jpg", 10**4).pixels
    assert found.shape == (32, 16, 3)
    assert found[:12].max() < 0.2
    assert found[20:].min() > 0.8


def test_orientation_of_the_camera_is_applied_in_16_bits_too(tmp_path: Path) -> None:
    pixels = noise(4, 6, 3, dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    write_png(pixels, tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    tagged = Image.new("RGB", (1, 1))
    tagged.save(tmp_path / "tag.png", exif=exif)
    tag = (tmp_path / "tag.png").read_bytes()
    start = tag.index(b"eXIf") - 4
    chunk = tag[start : start + 12 + int.from_bytes(tag[start : start + 4], "big")]
    (tmp_path / "x.png").write_bytes(content[:33] + chunk + content[33:])
    photo = read_photo(tmp_path / "x.png", 100)
    assert np.array_equal(quantised(photo.pixels, 16), np.rot90(pixels, -1))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.png", b"no image", "not an image"),
        ("empty.png", b"", "empty"),
        ("missing.png", None, "no such file"),
    ],
)
def test_files_that_are_no_image_are_told(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImageError, match=message):
        read_photo(tmp_path / name, 100)


def test_too_large_truncated_and_32_bit_files_are_told(tmp_path: Path) -> None:
    write_png(noise(40, 50, 3, dtype=np.uint16), tmp_path / "x.png")
    with pytest.raises(UnreadableImageError, match="50×40 pixels are more than the 1,999 that are restored"):
        read_photo(tmp_path / "x.png", 1999)
    content = (tmp_path / "x.png").read_bytes()
    (tmp_path / "short.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableImageError, match="cannot be decoded"):
        read_photo(tmp_path / "short.png", 2000)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UnreadableImageError, match="no range that means black and white"):
        read_photo(tmp_path / "float.tif", 100)


def test_figures_are_means_of_images_beside_those_of_bicubic_interpolation(tmp_path: Path) -> None:
    metric = RestorationMetric(keep=1)
    clean = [noise(24, 26, 3, seed=n) for n in range(2)]
    rows = [{"index": n, "inputs": x[::2, ::2], "restored": (x // 2 * 2), "clean": x} for n, x in enumerate(clean)]
    metric.process(None, rows)
    figures = metric.compute_metrics(metric.results)
    each = [psnr(*(measured(x, "y", 2) for x in (row["restored"], row["clean"]))) for row in rows]
    assert figures["psnr"] == pytest.approx(np.mean(each))
    assert figures["gain"] == pytest.approx(figures["psnr"] - figures["psnr_before"])
    assert figures["ssim"] > figures["ssim_before"]
    assert [index for index, _ in metric.pictures] == [0]
    metric.write(tmp_path / "figures.csv", None)
    lines = (tmp_path / "figures.csv").read_text().splitlines()
    assert lines[0] == "image,psnr,ssim,psnr_before,ssim_before"
    assert len(lines) == 3
    with pytest.raises(ValueError, match="channel='luma' is unknown; choose one of y, rgb"):
        RestorationMetric(channel="luma")
    with pytest.raises(ValueError, match="nothing to evaluate"):
        RestorationMetric().compute_metrics([])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_network_of_numbers_that_are_none_makes_no_picture(wrong: float) -> None:
    photo = Photo(np.full((4, 5, 3), 0.5, np.float32), None, 8, None, Path("x.png"))

    def network(pixels: np.ndarray) -> np.ndarray:
        found = pixels.copy()
        found[2, 3, 0] = wrong
        return found

    with pytest.raises(ValueError, match="NaN or infinite numbers"):
        restored_photo(photo, OfPixels(3, 1, network))
    model = ImageRestorer("mambair_nano_denoise").eval()
    torch.nn.init.constant_(next(model.parameters()), wrong)
    with torch.no_grad(), pytest.raises(ValueError, match="NaN or infinite numbers"):
        model.answers([torch.zeros(3, 8, 8)])
