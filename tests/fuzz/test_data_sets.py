"""Images, label images and annotation files with random contents and damage: mistakes are told, all else is right."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.fuzz.cases import case, cases, mutated
from visionssm.data.errors import CorruptImageError, DatasetError, UnreadableFileError
from visionssm.data.images import MAX_PIXELS, ImageHeader, UnreadableImageError, inspect_images, read_image
from visionssm.data.masks import check_mask, decode_mask, uncompressed_rle
from visionssm.tasks.detection.data import CocoInstances
from visionssm.tasks.pointcloud.infos import read_infos
from visionssm.tasks.pointcloud.kitti import read_calibration, read_labels, read_plane, read_sweep
from visionssm.tasks.restoration.photo import read_photo, write_png
from visionssm.tasks.segmentation.data import IGNORED, LabelledImages

pytestmark = pytest.mark.filterwarnings("ignore")  # of Pillow, on damaged files

FORMATS = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"),
    "jpg": ("L", "RGB", "CMYK"),
    "tiff": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB"),
    "webp": ("RGB", "RGBA"),
    "gif": ("L", "P", "RGB"),
    "bmp": ("1", "L", "P", "RGB"),
    "ppm": ("1", "L", "RGB", "I"),
}
SAVED_AS = {"jpg": "JPEG", "ppm": "PPM"}


def random_image(draw: random.Random, mode: str | None = None, size: tuple[int, int] | None = None) -> Image.Image:
    """Noise in any mode that Pillow makes."""
    width, height = size or (draw.choice((1, 2, 7, 16, 33)), draw.choice((1, 2, 7, 16, 33)))
    values = np.random.default_rng(draw.randrange(1 << 30))
    mode = mode or draw.choice(["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB"])
    shape = (height, width)
    if mode in ("I", "I;16", "F"):
        high = draw.choice((2, 256, 65536))
        image = Image.fromarray(values.integers(0, high, shape).astype({"I": "<i4", "I;16": "<u2", "F": "<f4"}[mode]))
        if mode == "F" and draw.random() < 0.3:
            image.putpixel((0, 0), draw.choice((float("nan"), float("inf"), -1e30)))
        return image
    count = Image.getmodebands(mode)
    pixels = values.integers(0, 256, (*shape, count), np.uint8)
    if mode == "1":
        return Image.fromarray(pixels[..., 0] > 127)
    image = Image.frombytes(mode, (width, height), pixels.tobytes())
    if mode in ("P", "PA"):
        image.putpalette(values.integers(0, 256, 768, np.uint8).tobytes())
    return image


def random_file(draw: random.Random) -> tuple[str, bytes]:
    """Suffix and content of an image file, sometimes with an orientation and with metadata of no meaning."""
    suffix = draw.choice(sorted(FORMATS))
    mode = draw.choice(FORMATS[suffix])
    options: dict[str, Any] = {}
    if draw.random() < 0.5:
        exif = Image.Exif()
        exif[0x0112] = draw.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 300))
        options["exif"] = exif.tobytes() if draw.random() < 0.8 else b"Exif\0\0" + draw.randbytes(40)
    if suffix == "png" and mode in ("L", "P", "RGB", "I;16", "1") and draw.random() < 0.5:
        keys = {"RGB": (1, 2, 3), "P": draw.choice((0, b"\0\x80\xff"))}
        options["transparency"] = keys.get(mode, draw.choice((0, 1, 200)))
    file = io.BytesIO()
    image = random_image(draw, mode)
    try:
        image.save(file, SAVED_AS.get(suffix, suffix.upper()), **options)
    except (OSError, ValueError, KeyError, TypeError, SyntaxError):  # what Pillow does not write is of no interest
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG")
    return suffix, file.getvalue()


def reading(path: Path, **options: Any) -> Image.Image | UnreadableImageError:
    try:
        return read_image(path, **options)
    except UnreadableImageError as error:
        return error


def test_any_image_file_is_read_in_its_own_precision_or_told(tmp_path: Path) -> None:
    for number, draw in cases(100):
        with case(number):
            suffix, content = random_file(draw)
            path = tmp_path / f"a.{suffix}"
            if draw.random() < 0.3:
                values = np.random.default_rng(draw.randrange(1 << 30))
                shape = (draw.choice((1, 7)), draw.choice((1, 9)), draw.choice((1, 2, 3, 4)))
                write_png(values.integers(0, 65536, shape).astype(np.uint16), path)
                content = path.read_bytes()
            path.write_bytes(content if draw.random() < 0.4 else mutated(content, draw))
            try:
                photo = read_photo(path, 10_000)
            except UnreadableImageError:
                continue
            assert photo.pixels.shape[2] in (1, 3)
            assert photo.pixels.shape[0] * photo.pixels.shape[1] <= 10_000
            assert photo.alpha is None or photo.alpha.shape == photo.pixels.shape[:2]
            for values in (photo.pixels, np.zeros(1) if photo.alpha is None else photo.alpha):
                assert 0 <= values.min() <= values.max() <= 1


def test_any_image_file_is_read_or_told_and_its_header_tells_the_same(tmp_path: Path) -> None:
    for number, draw in cases(300):
        with case(number):
            suffix, content = random_file(draw)
            whole = draw.random() < 0.4
            path = tmp_path / f"a.{suffix}"
            path.write_bytes(content if whole else mutated(content, draw))
            header = inspect_images([path])[0]
            if isinstance(header, ImageHeader) and header.stored[0] * header.stored[1] > MAX_PIXELS // 8:
                continue  # what damage made of a size: reading takes long, and shrinks what is larger still
            images = [reading(path, mode=mode, upright=up) for mode in ("RGB", "L") for up in (True, False)]
            if whole:
                assert isinstance(header, ImageHeader), header
            if isinstance(header, UnreadableImageError):
                assert all(isinstance(x, UnreadableImageError) for x in images), header
                continue
            for image, (mode, size) in zip(
                images, [(mode, size) for mode in ("RGB", "L") for size in (header.upright, header.stored)], strict=True
            ):
                assert not whole or isinstance(image, Image.Image), image
                if isinstance(image, Image.Image):
                    assert (image.mode, image.size) == (mode, size)
                    assert np.asarray(image).shape[:2] == size[::-1]
            if all(isinstance(image, Image.Image) for image in images) and not header.turned:
                np.testing.assert_array_equal(images[0], images[1])


JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, float("nan"), float("inf"), -float("inf"), 1e308, 10**30, 10**400, "", "x", "1",
    "\0", "../a.png", "/etc/hostname", "/dev/zero", "images", ".", "é\ud800", "\x1b[31m", [], {}, [1], [[]], [[[1, 2]]],
    [1, 2, 3, 4], [0, 0, 1e300, 1e300], [[1, 2, 3, 4, 5, 1e9]], {"size": [20, 30], "counts": "0" * 50},
    {"size": [20, 30], "counts": [1e9, -1e9]}, {"size": [10**9, 10**9], "counts": [10**18]}, {"id": 1},
)  # fmt: skip

HEIGHT, WIDTH = 20, 30


def content_of(folder: Path) -> dict[str, Any]:
    """A sound set of four images, one of them with an orientation."""
    (folder / "images" / "below").mkdir(parents=True)
    names = ("a.png", "below/b.jpg", "c.png", "d.jpg")
    for number, name in enumerate(names):
        options: dict[str, Any] = {}
        if number == 3:
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = 6
        random_image(random.Random(number), "RGB", (WIDTH, HEIGHT)).save(folder / "images" / name, **options)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4:9, 6:20] = True
    annotations = [
        {
            "id": 4 * image + part,
            "image_id": image,
            "category_id": (5, 9)[part % 2],
            "bbox": [6, 4, 14, 5],
            "area": 70,
            "iscrowd": int(part == 3),
            "segmentation": uncompressed_rle(mask) if part else [[6, 4, 20, 4, 20, 9, 6, 9]],
        }
        for image in range(4)
        for part in range(4)
    ]
    sizes = {"width": WIDTH, "height": HEIGHT}
    return {
        "images": [{"id": number, "file_name": name, **sizes} for number, name in enumerate(names)],
        "annotations": annotations,
        "categories": [{"id": 9, "name": "cat"}, {"id": 5, "name": "dog"}],
    }


def spoil(value: Any, draw: random.Random) -> None:
    """Change, take out, double or add something at a random place."""
    while True:
        inner = [x for x in (value.values() if isinstance(value, dict) else value) if isinstance(x, (dict, list)) and x]
        if not inner or draw.random() < 0.15:
            break
        value = draw.choice(inner)
    junk = copy.deepcopy(draw.choice(JUNK))
    if isinstance(value, dict):
        key = draw.choice([*value, "iscrowd", "segmentation", "x"])
        if draw.random() < 0.2:
            value.pop(key, None)
        else:
            value[key] = junk
    elif draw.random() < 0.3:
        value.append(junk if draw.random() < 0.5 or not value else copy.deepcopy(draw.choice(value)))
    elif value:
        value[draw.randrange(len(value))] = junk


def check_samples(data: CocoInstances) -> None:
    """Every sample is what a detector takes."""
    for index in range(len(data)):
        sample = data[index]
        targets, (_, height, width) = sample["targets"], sample["inputs"].shape
        assert sample["index"] == index
        assert sample["inputs"].dtype == torch.float32
        labels, boxes = targets["labels"], targets["boxes"]
        assert len({len(x) for x in targets.values()}) == 1, "as many boxes, labels, masks and crowd marks"
        assert ((labels >= 1) & (labels <= len(data.classes))).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        if not data.evaluating:
            assert ((boxes >= 0) & (boxes <= torch.tensor([width, height] * 2))).all()
        if data.has_masks:
            assert targets["masks"].shape == (len(boxes), height, width)


def made(kind: Any, *arguments: Any, **options: Any) -> Any:
    """The data set, or what it says is wrong."""
    try:
        return kind(*arguments, **options)
    except DatasetError as error:
        return str(error)


def look_through(folder: Path, draw: random.Random) -> None:
    options: dict[str, Any] = {
        "annotations": "a.json",
        "images": "images",
        "masks": draw.choice((None, True, False)),
        "orientation": draw.choice((None, None, "upright", "stored")),
        "background_images": draw.random() < 0.8,
        "transforms": draw.choice((None, [{"type": "RandomHorizontalFlip"}])),
    }
    sound = made(CocoInstances, folder, **options, wrong="raise")
    data = made(CocoInstances, folder, **options, wrong="skip")
    if isinstance(data, str):
        assert isinstance(sound, str)
        assert "mistakes" not in data
        return
    if not isinstance(sound, str):
        check_samples(sound)
    assert (data.skipped == 0) == (not isinstance(sound, str))
    check_samples(data)
    data.for_evaluation()
    check_samples(data)


def test_any_annotations_are_used_or_told(tmp_path: Path) -> None:
    content = content_of(tmp_path)
    for number, draw in cases(150):
        with case(number):
            spoiled = copy.deepcopy(content)
            for _ in range(draw.choice((0, 1, 1, 2, 5))):
                spoil(spoiled, draw)
            text = json.dumps(spoiled)
            if draw.random() < 0.2:
                text = mutated(text.encode(), draw).decode("latin-1")
            (tmp_path / "a.json").write_text(
                text, encoding=draw.choice(("utf-8", "utf-8-sig", "latin-1")), errors="replace"
            )
            look_through(tmp_path, draw)


def test_nesting_without_end_is_no_annotation_file(tmp_path: Path) -> None:
    content_of(tmp_path)
    for text in ("[" * 100_000, '{"images":' * 100_000, '{"a":' + "9" * 5000 + "}"):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(DatasetError, match="no JSON file"):
            CocoInstances(tmp_path, annotations="a.json", images="images")


def test_any_segmentation_is_decoded_if_it_is_accepted() -> None:
    for number, draw in cases(400):
        with case(number):
            height, width = draw.randrange(1, 40), draw.randrange(1, 40)
            mask = np.random.default_rng(number).random((height, width)) < draw.random()
            segmentation: Any = uncompressed_rle(mask)
            match draw.randrange(4):
                case 0:
                    spoil(segmentation, draw)
                case 1:
                    segmentation["counts"] = "".join(chr(draw.randrange(40, 120)) for _ in range(draw.randrange(12)))
                case 2:
                    coordinates = [draw.uniform(-50, 90) for _ in range(2 * draw.randrange(1, 7))]
                    segmentation = [coordinates, [draw.choice(JUNK) for _ in range(6)]][: draw.choice((1, 1, 2))]
                case _:
                    pass
            try:
                check_mask(segmentation, height, width)
            except ValueError:
                with pytest.raises(ValueError, match="segmentation"):
                    decode_mask(segmentation, height, width)
            else:
                assert decode_mask(segmentation, height, width).shape == (height, width)


def labelled_folder(folder: Path, draw: random.Random) -> Path:
    """Images and label images of any kind, some of which fit, some damaged."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for name in "abc":
        suffix, content = random_file(draw)
        (folder / "images" / f"{name}.{suffix}").write_bytes(content)
        with Image.open(io.BytesIO(content)) as image:
            size = draw.choice((image.size, image.size, image.size, image.size[::-1]))
        label = random_image(draw, draw.choice((None, "L", "L", "P")), size)
        if label.mode in ("L", "P") and draw.random() < 0.8:
            label = label.point(lambda x: x % 3)
        with contextlib.suppress(OSError, ValueError):
            label.save(folder / "labels" / f"{name}.png")
    for path in [*folder.rglob("*.*")]:
        if draw.random() < 0.1:
            path.write_bytes(mutated(path.read_bytes(), draw))
    return folder


def test_any_label_images_are_used_or_told(tmp_path: Path) -> None:
    for number, draw in cases(120):
        with case(number):
            folder = labelled_folder(tmp_path / str(number), draw)
            options: dict[str, Any] = {
                "images": "images",
                "labels": "labels",
                "classes": ["x", "y", "z"],
                "orientation": draw.choice((None, None, "upright", "stored")),
                "inspect": draw.choice((None, 0, 1)),
                "transforms": draw.choice((None, [{"type": "RandomVerticalFlip"}])),
            }
            data = made(LabelledImages, folder, **options)
            for index in range(0 if isinstance(data, str) else len(data)):
                with contextlib.suppress(CorruptImageError):
                    data[index]
            data = made(LabelledImages, folder, **options, wrong="skip")
            if isinstance(data, str):
                assert "no usable image" in data
                continue
            for evaluating in (False, True):
                if evaluating:
                    data.for_evaluation()
                for index in range(len(data)):
                    sample = made(data.__getitem__, index)
                    if isinstance(sample, str):
                        assert not evaluating
                        assert "in a row" in sample
                        continue
                    labels = sample["labels"]
                    assert sample["inputs"].shape[1:] == labels.shape
                    assert ((labels < 3) | (labels == IGNORED)).all()
                    assert labels.min() >= 0


def test_annotations_that_pass_the_check_are_loaded_by_mmdet(tmp_path: Path) -> None:
    pytest.importorskip("mmdet", reason="needs the openmmlab extra")
    from mmdet.utils import register_all_modules
    from mmengine.registry import DATASETS, DefaultScope

    from visionssm.tasks.openmmlab.annotations import check_annotations

    register_all_modules(init_default_scope=False)
    content = content_of(tmp_path)
    accepted = 0
    for number, draw in cases(100):
        with case(number), DefaultScope.overwrite_default_scope("mmdet"):
            spoiled = copy.deepcopy(content)
            for _ in range(draw.choice((0, 1, 1, 2))):
                spoil(spoiled, draw)
            (tmp_path / "a.json").write_text(json.dumps(spoiled), errors="replace")
            dataset = {
                "type": "CocoDataset",
                "data_root": str(tmp_path),
                "ann_file": "a.json",
                "data_prefix": {"img": "images/"},
                "metainfo": {"classes": ("cat", "dog")},
                "pipeline": [
                    {"type": "LoadImageFromFile", "color_type": "color_ignore_orientation"},
                    {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
                ],
            }
            try:
                check_annotations(dataset, "mmdet")
            except DatasetError:
                continue
            accepted += 1
            data = DATASETS.build(dataset)
            for index in range(len(data)):
                sample = data[index]
                assert sample["img"].shape == (sample["height"], sample["width"], 3)
                assert len(sample["gt_masks"]) == len(sample["gt_bboxes"]) == len(sample["gt_bboxes_labels"])
    assert accepted > 5


def test_label_images_that_pass_the_check_are_loaded_by_mmseg(tmp_path: Path) -> None:
    pytest.importorskip("mmseg", reason="needs the openmmlab extra")
    from mmengine.registry import DATASETS, DefaultScope
    from mmseg.utils import register_all_modules

    from visionssm.tasks.openmmlab.annotations import check_annotations

    register_all_modules(init_default_scope=False)
    accepted = 0
    for number, draw in cases(60):
        with case(number), DefaultScope.overwrite_default_scope("mmseg"):
            folder = labelled_folder(tmp_path / str(number), draw)
            dataset = {
                "type": "BaseSegDataset",
                "data_root": str(folder),
                "data_prefix": {"img_path": "images", "seg_map_path": "labels"},
                "img_suffix": f".{draw.choice(sorted(FORMATS))}",
                "metainfo": {"classes": ("x", "y", "z"), "palette": [[0, 0, 0], [1, 1, 1], [2, 2, 2]]},
                "reduce_zero_label": False,
                "pipeline": [
                    {"type": "LoadImageFromFile", "color_type": draw.choice(("color", "color_ignore_orientation"))},
                    {"type": "LoadAnnotations"},
                ],
            }
            try:
                check_annotations(dataset, "mmseg")
            except DatasetError:
                continue
            data = DATASETS.build(dataset)
            accepted += 1
            for index in range(len(data)):
                with contextlib.suppress(UnreadableImageError):  # damage that shows only when the image is decoded
                    sample = data[index]
                    assert sample["gt_seg_map"].shape == sample["img"].shape[:2]
                    assert set(np.unique(sample["gt_seg_map"])) <= {0, 1, 2, IGNORED}
    assert accepted > 2


def test_any_files_of_point_clouds_are_read_or_told(tmp_path: Path) -> None:
    label = b"Car 0.00 0 1.85 387.63 181.54 423.81 203.12 1.67 1.87 3.69 -16.53 2.39 58.49 1.57\n"
    rows = {"P2": 12, "R0_rect": 9, "Tr_velo_to_cam": 12}
    calibration = "".join(
        f"{name}: {' '.join(f'{float(i % (4 if n == 9 else 5) == 0):.3e}' for i in range(n))}\n"
        for name, n in rows.items()
    )
    infos = [{"name": np.array(["Car", "Bus"]), "boxes": np.ones((2, 7)), "path": "a.bin", "n": [1, 2.5, None]}] * 3
    files = {
        "l.txt": (read_labels, label * 3),
        "c.txt": (read_calibration, calibration.encode()),
        "p.txt": (read_plane, b"# Plane\nWidth 4\nHeight 1\n-1.8e-02 -9.9e-01 2.3e-03 1.68\n"),
        "s.bin": (read_sweep, np.ones((20, 4), "<f4").tobytes()),
        "i.pkl": (read_infos, pickle.dumps(infos)),
        "i.json": (read_infos, b'[{"name": ["Car"], "boxes": [[1, 2, 3, 4, 5, 6, 0]]}]'),
    }
    for name, (read, content) in files.items():
        (tmp_path / name).write_bytes(content)
        assert len(read(tmp_path / name)) if name != "c.txt" else read(tmp_path / name)  # type: ignore[operator]
    for number, draw in cases(150):
        with case(number):
            name = draw.choice(sorted(files))
            read, content = files[name]
            (tmp_path / name).write_bytes(mutated(content, draw))
            with contextlib.suppress(UnreadableFileError):
                found = read(tmp_path / name)  # type: ignore[operator]
                if name in ("p.txt", "s.bin"):
                    assert np.isfinite(found).all()
