"""Boxes of people to crops of one size, by an affine map, and back (NumPy).

Coordinates are x and y; integers are the middles of pixels. A region of an image is its centre and its scale (width and
height in pixels of the image), turned around the centre. Sizes of crops are height and width, as of tensors.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.float64]

PADDING = 1.25
"""By how much the published models enlarge a person's box."""


def box_to_centre_scale(boxes: npt.ArrayLike, size: tuple[int, int], padding: float = PADDING) -> tuple[Array, Array]:
    """Regions around boxes, enlarged to the shape of the crop.

    Args:
        boxes: (..., 4), left, top, right and bottom in pixels of the image.
        size: height and width of the crop.
        padding: by how much the boxes are enlarged, before their shorter side is made longer.

    Returns:
        centre and scale, (..., 2) each.

    Raises:
        ValueError: a box is not finite or has no area, or the size or the padding is out of range.

    Examples:
        >>> centre, scale = box_to_centre_scale([10, 20, 50, 100], (256, 192))
        >>> centre.tolist(), scale.tolist()
        ([30.0, 60.0], [75.0, 100.0])
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"boxes has shape {boxes.shape}; expected (..., 4): left, top, right and bottom")
    if min(size) < 1 or not (padding > 0 and math.isfinite(padding)):
        raise ValueError(f"size={tuple(size)} and padding={padding} must be positive")
    corner, far = boxes[..., :2], boxes[..., 2:]
    if not (np.isfinite(boxes).all() and (far > corner).all()):
        wrong = boxes.reshape(-1, 4)[~(np.isfinite(boxes).all(-1) & (far > corner).all(-1)).reshape(-1)]
        raise ValueError(f"{len(wrong)} of {boxes.size // 4} boxes have no area, the first {wrong[0].tolist()}")
    width, height = np.moveaxis(padding * (far - corner), -1, 0)
    aspect = size[1] / size[0]
    scale = np.stack([np.maximum(width, height * aspect), np.maximum(height, width / aspect)], -1)
    return (corner + far) / 2, scale


def matrix(centre: npt.ArrayLike, scale: npt.ArrayLike, rotation: float, size: tuple[int, int]) -> Array:
    """The map from an image to a crop: the region's centre to the crop's, the region's width to the crop's width.

    Both axes are enlarged alike, as the published pipelines do it.

    Args:
        centre, scale: (2,) each, see the module.
        rotation: of the region in the image, in degrees, clockwise as one sees it.
        size: height and width of the crop.

    Returns:
        (2, 3): crop = matrix · (x, y, 1).

    Raises:
        ValueError: the scale is not positive, or a number is not finite.

    Examples:
        >>> matrix([30, 60], [75, 100], 0, (256, 192)).round(2).tolist()
        [[2.56, 0.0, 19.2], [-0.0, 2.56, -25.6]]
    """
    centre, scale = np.asarray(centre, dtype=np.float64), np.asarray(scale, dtype=np.float64)
    if centre.shape != (2,) or scale.shape != (2,):
        raise ValueError(f"centre and scale have shapes {centre.shape} and {scale.shape}; expected (2,) each")
    if not (np.isfinite([*centre, *scale, rotation]).all() and scale.min() > 0 and min(size) > 0):
        raise ValueError(
            f"centre={centre.tolist()}, scale={scale.tolist()}, rotation={rotation} and size={tuple(size)} must be "
            "finite, scale and size positive"
        )
    enlarged = size[1] / scale[0]
    cosine, sine = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    turn = enlarged * np.array([[cosine, sine], [-sine, cosine]])  # turns the region back upright
    middle = np.array([size[1] / 2, size[0] / 2])
    return np.column_stack([turn, middle - turn @ centre])


def inverse(affine: npt.ArrayLike) -> Array:
    """The map back, (2, 3).

    Raises:
        ValueError: `affine` has another shape, or there is no way back.
    """
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (2, 3) or not np.isfinite(affine).all() or np.linalg.det(affine[:, :2]) == 0:
        raise ValueError(f"{affine.tolist()} is no invertible (2, 3) matrix")
    turn = np.linalg.inv(affine[:, :2])
    return np.column_stack([turn, -turn @ affine[:, 2]])


def transform(points: npt.ArrayLike, affine: npt.ArrayLike) -> Array:
    """(..., 2) points sent through a (2, 3) matrix.

    Examples:
        >>> there = matrix([30, 60], [75, 100], 40, (256, 192))
        >>> transform(transform([[12.0, 34.0]], there), inverse(there)).round(9).tolist()
        [[12.0, 34.0]]
    """
    affine = np.asarray(affine, dtype=np.float64)
    moved: Array = np.asarray(points, dtype=np.float64) @ affine[:, :2].T + affine[:, 2]
    return moved


def warp(image: npt.NDArray[np.uint8], affine: npt.ArrayLike, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The crop that a matrix maps an image to, sampled bilinearly; black where there is no image.

    Args:
        image: (H, W, 3) or (H, W), uint8.
        affine: (2, 3), from the image to the crop.
        size: height and width of the crop.

    Examples:
        >>> image = np.arange(48, dtype=np.uint8).reshape(6, 8)
        >>> bool((warp(image, [[1, 0, -2], [0, 1, -1]], (4, 5)) == image[1:5, 2:7]).all())
        True
    """
    back = inverse(affine)
    # Pillow's coordinates are 0.5 in the middle of the first pixel, in the crop as in the image.
    back[:, 2] += 0.5 - 0.5 * back[:, :2].sum(1)
    crop = Image.fromarray(image).transform(
        (size[1], size[0]), Image.Transform.AFFINE, back.reshape(-1).tolist(), Image.Resampling.BILINEAR
    )
    return np.asarray(crop)
