"""People drawn over images: their boxes and skeletons; and the heat maps that points are read from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from visionssm.data.keypoints import Skeleton
from visionssm.drawing import below, beside, class_colour, draw_objects, shown_scale, with_title

_MIDDLE, _FIRST, _SECOND = (255, 255, 255), (60, 220, 90), (250, 80, 70)


def draw_people(
    image: Image.Image,
    people: Sequence[np.ndarray],
    skeleton: Skeleton,
    boxes: Sequence[Sequence[float]] = (),
    names: Sequence[str] = (),
    *,
    threshold: float,
) -> Image.Image:
    """The image enlarged, with a colour for everybody: bones, and points, green and red where two swap in a mirror.

    Args:
        image: RGB.
        people: (K, 3) x, y and score, or visibility, each.
        skeleton: of the points.
        boxes: left, top, right, bottom, each; those in which nobody was found too, where there are more.
        names: what is written at each box.
        threshold: least score of a point that is drawn.
    """
    scale = shown_scale(image)
    colours = [class_colour(number) for number in range(max(len(people), len(boxes)))]
    outlines = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    labels = list(names) or [""] * len(outlines)
    drawn = draw_objects(image, outlines, labels, colours[: len(outlines)], scale=scale)
    pen = ImageDraw.Draw(drawn)
    radius = max(2, round(min(drawn.size) / 150))
    sides = {number: colour for pair in skeleton.flip_pairs for number, colour in zip(pair, (_FIRST, _SECOND))}
    for points, colour in zip(people, colours, strict=False):
        at = [tuple(x) for x in ((points[:, :2] + 0.5) * scale).tolist()]
        seen = points[:, 2] >= threshold
        for first, second in skeleton.edges:
            if seen[first] and seen[second]:
                pen.line((at[first], at[second]), fill=colour, width=radius)
        for number in np.flatnonzero(seen).tolist():
            x, y = at[number]
            pen.ellipse(
                (x - radius, y - radius, x + radius, y + radius), fill=sides.get(number, _MIDDLE), outline=(0, 0, 0)
            )
    return drawn


def draw_heat_maps(crop: np.ndarray, maps: np.ndarray, skeleton: Skeleton) -> Image.Image:
    """A crop with each of its heat maps in a tile: red where the map is high, and the height of its peak.

    Args:
        crop: (H, W, 3) uint8.
        maps: (K, H/4, W/4).
    """
    grey = np.repeat(np.asarray(Image.fromarray(crop).convert("L"), dtype=np.float32)[..., None], 3, 2) * 0.6
    scale = max(1, round(160 / max(crop.shape[:2])))
    tiles = [with_title(_enlarged(crop, scale), "crop")]
    for name, values in zip(skeleton.names, maps, strict=True):
        spread = Image.fromarray(values.clip(0, 1).astype(np.float32)).resize(
            crop.shape[1::-1], Image.Resampling.BICUBIC
        )
        share = np.asarray(spread).clip(0, 1)[..., None]
        mixed = grey * (1 - share) + np.array([255, 40, 20], dtype=np.float32) * share
        tiles.append(with_title(_enlarged(mixed.round().astype(np.uint8), scale), f"{name} {values.max():.2f}"))
    columns = max(1, round(len(tiles) ** 0.5 * 1.3))
    return below([beside(tiles[start : start + columns]) for start in range(0, len(tiles), columns)])


def _enlarged(pixels: np.ndarray, scale: int) -> Image.Image:
    image = Image.fromarray(pixels)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
