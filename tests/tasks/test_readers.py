"""One image, one content: whatever reads a file gives the pixels that prediction sees."""

from __future__ import annotations

import importlib.util
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from torch import nn

from visionssm.data.images import ImageHeader, inspect_images, read_image
from visionssm.prediction import predict_files
from visionssm.tasks.classification.data import ClassificationImages, timm_dataset
from visionssm.tasks.detection.data import CocoInstances
from visionssm.tasks.detection.predictor import Detector
from visionssm.tasks.segmentation.data import LabelledImages
from visionssm.tasks.segmentation.predictor import Segmenter
from visionssm.tasks.video.predictor import _animation

HEIGHT, WIDTH = 12, 16
Write = Callable[[Path], None]


def noise(*shape: int, dtype: Any = np.uint8, high: int = 256) -> np.ndarray:
    """Reproducible values."""
    return np.random.default_rng(0).integers(0, high, (HEIGHT, WIDTH, *shape), dtype)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def palette(transparency: int | bytes | None = None) -> Write:
    def write(path: Path) -> None:
        image = Image.fromarray(noise(high=5), mode="P")
        image.putpalette(np.random.default_rng(1).integers(0, 256, 15, np.uint8).tobytes())
        image.save(path, **({} if transparency is None else {"transparency": transparency}))

    return write


def plain(pixels: np.ndarray, **options: Any) -> Write:
    return lambda path: Image.fromarray(pixels).save(path, **options)


def converted(mode: str, **options: Any) -> Write:
    return lambda path: Image.fromarray(noise(3)).convert(mode).save(path, **options)


FORMATS: dict[str, Write] = {
    "rgb.png": plain(noise(3)),
    "rgb.jpg": plain(noise(3)),
    "rgba.png": plain(noise(4)),
    "rgba.webp": plain(noise(4), lossless=True),
    "gray.png": plain(noise()),
    "gray_alpha.png": lambda path: Image.fromarray(noise(4)).convert("LA").save(path),
    "gray.jpg": converted("L"),
    "16_bit.png": plain(noise(dtype=np.uint16, high=65536)),
    "dim_16_bit.png": plain(noise(dtype=np.uint16, high=4096)),
    "16_bit.tiff": plain(noise(dtype=np.uint16, high=65536)),
    "integers.tiff": plain(noise(dtype=np.int32, high=100_000)),
    "floats.tiff": plain(np.random.default_rng(0).random((HEIGHT, WIDTH), np.float32)),
    "wide_floats.tiff": plain(np.random.default_rng(0).normal(size=(HEIGHT, WIDTH)).astype(np.float32)),
    "palette.png": palette(),
    "clear_palette.png": palette(2),
    "half_clear_palette.png": palette(bytes([0, 60, 255, 128, 255])),
    "two_colours.png": converted("1"),
    "cmyk.jpg": converted("CMYK"),
    "cmyk.tiff": converted("CMYK"),
    "gif.gif": converted("P"),
    "key_colour.png": lambda path: Image.fromarray(noise(3, high=3)).save(path, transparency=(1, 1, 1)),
    **{f"turned_{n}.jpg": plain(noise(3), exif=exif(n)) for n in range(1, 9)},
    **{f"turned_{n}.png": plain(noise(3), exif=exif(n)) for n in (3, 6)},
    **{f"turned_{n}.tiff": plain(noise(3), exif=exif(n)) for n in (3, 6)},
    "turned.webp": plain(noise(3), exif=exif(8).tobytes(), lossless=True),
}


def pixels_of(inputs: Any) -> np.ndarray:
    """(3, H, W) in [0, 1] as (H, W, 3) uint8."""
    return (inputs.permute(1, 2, 0) * 255).round().byte().numpy()


def unchanged(dataset: Any) -> Any:
    """The data set without scaling and cropping."""
    dataset.transform = lambda image: image
    return dataset


def by_folder(path: Path, folder: Path) -> np.ndarray:
    target = folder / "val" / "a" / path.name
    target.parent.mkdir(parents=True)
    target.write_bytes(path.read_bytes())
    return np.asarray(unchanged(timm_dataset(str(folder), "val"))[0]["inputs"])


def by_torchvisions_folder(path: Path, folder: Path) -> np.ndarray:
    target = folder / "val" / "a" / path.with_suffix(".png").name  # it knows fewer suffixes than formats
    target.parent.mkdir(parents=True)
    target.write_bytes(path.read_bytes())
    return np.asarray(unchanged(timm_dataset(str(folder), "val", name="torch/image_folder"))[0]["inputs"])


def by_open_file(path: Path, folder: Path) -> np.ndarray:
    """As timm's reader of Hugging Face's data sets gives it: bytes in memory."""

    class Source:
        reader: ClassVar[Any] = [(io.BytesIO(path.read_bytes()), 0)]

        def __len__(self) -> int:
            return 1

    return np.asarray(ClassificationImages(Source(), lambda image: image, {}, "RGB", True, True)[0]["inputs"])


def by_shards(path: Path, folder: Path) -> np.ndarray:
    pytest.importorskip("webdataset", reason="not installed")
    folder.mkdir()
    with tarfile.open(folder / "val-000000.tar", "w") as tar:
        for suffix, content in (("jpg", path.read_bytes()), ("cls", b"0")):
            entry = tarfile.TarInfo(f"000000.{suffix}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    split = {"name": "val", "filenames": ["val-000000.tar"], "shard_lengths": [1], "num_samples": 1}
    (folder / "_info.json").write_text(json.dumps({"splits": {"val": split}}))
    return np.asarray(next(iter(unchanged(timm_dataset(str(folder), "val", name="wds/x"))))["inputs"])


def by_coco(path: Path, folder: Path) -> np.ndarray:
    header = inspect_images([path])[0]
    assert isinstance(header, ImageHeader)
    width, height = header.upright
    folder.mkdir()
    entry = {"id": 1, "file_name": path.name, "height": height, "width": width}
    content = {"images": [entry], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (folder / "a.json").write_text(json.dumps(content))
    data = CocoInstances(folder, annotations="a.json", images=str(path.parent), orientation="upright")
    return pixels_of(data[0]["inputs"])


def by_label_images(path: Path, folder: Path) -> np.ndarray:
    header = inspect_images([path])[0]
    assert isinstance(header, ImageHeader)
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "images" / path.name).write_bytes(path.read_bytes())
    Image.new("L", header.upright).save(folder / "labels" / f"{path.stem}.png")
    data = LabelledImages(folder, images="images", labels="labels", classes=["a"], orientation="upright")
    return pixels_of(data[0]["inputs"])


def by_prediction(path: Path, folder: Path) -> np.ndarray:
    class Predictor(Segmenter):
        def __call__(self, images: Any) -> Any:
            return [np.asarray(image) for image in images]

    return predict_files(Predictor(nn.Identity(), []), [path]).read[0].result  # type: ignore[arg-type, return-value]


def by_mmcv(path: Path, folder: Path) -> np.ndarray:
    if importlib.util.find_spec("mmcv") is None:
        pytest.skip("needs the openmmlab extra")
    from mmengine.registry import TRANSFORMS

    import visionssm.integrations.openmmlab  # noqa: F401

    loaded = TRANSFORMS.build({"type": "LoadImageFromFile"})({"img_path": str(path)})
    assert loaded["img_shape"] == loaded["ori_shape"] == loaded["img"].shape[:2]
    return loaded["img"][..., ::-1]


READERS = {
    reader.__name__[3:]: reader
    for reader in (
        by_folder,
        by_torchvisions_folder,
        by_open_file,
        by_shards,
        by_coco,
        by_label_images,
        by_prediction,
        by_mmcv,
    )
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    for name, write in FORMATS.items():
        write(folder / name)
    return folder


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_gives_the_same_pixels(files: Path, tmp_path: Path, name: str, reader: str) -> None:
    expected = np.asarray(read_image(files / name))
    assert np.ptp(expected) > 10, "a picture that says something"
    np.testing.assert_array_equal(READERS[reader](files / name, tmp_path / "set"), expected)


@pytest.mark.parametrize("kind", [Detector, Segmenter])
def test_results_with_places_are_of_the_image_at_its_own_size(
    tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(read_image.__kwdefaults__, "max_pixels", 100)  # in place of ninety million
    FORMATS["rgb.png"](tmp_path / "a.png")
    assert kind(nn.Identity(), ["a"]).read(tmp_path / "a.png").size == (WIDTH, HEIGHT)
    assert read_image(tmp_path / "a.png").size != (WIDTH, HEIGHT)


def test_frames_of_clips_are_read_as_images_are(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(4)), Image.fromarray(255 - noise(4))]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    clip = _animation(tmp_path / "a.webp", 3)
    np.testing.assert_array_equal(((clip[0] + 1) * 127.5).round().byte(), read_image(tmp_path / "a.webp"))
    assert len(clip) == 2
