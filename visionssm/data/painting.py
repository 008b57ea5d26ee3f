"""Painting of rendered pictures: polygons and lines with smooth edges, in colours that can be told apart."""

from __future__ import annotations

import numpy as np
from PIL import Image


def grid(size: int) -> np.ndarray:
    """(size, size, 2) x and y of the pixels' middles, of which the first is at 0.5."""
    return np.stack(np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5), -1)


def signed_distance(points: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """Distance of (…, 2) points to a polygon's outline, negative inside; two vertices make a line."""
    following = np.roll(vertices, -1, axis=0)
    edges = following - vertices  # (V, 2)
    offsets = points[..., None, :] - vertices  # (…, V, 2)
    share = ((offsets * edges).sum(-1) / (edges**2).sum(-1)).clip(0, 1)
    distance = np.linalg.norm(offsets - share[..., None] * edges, axis=-1).min(-1)
    x, y = points[..., :1], points[..., 1:]
    crosses = (vertices[:, 1] > y) != (following[:, 1] > y)  # (…, V)
    slope = edges[:, 0] / np.where(edges[:, 1] == 0, 1, edges[:, 1])
    right = x < vertices[:, 0] + (y - vertices[:, 1]) * slope
    inside = (crosses & right).sum(-1) % 2 == 1
    return np.where(inside, -distance, distance)


def coverage_of(points: np.ndarray, vertices: np.ndarray, margin: float) -> np.ndarray:
    """(H, W) share of every pixel that a polygon, or a line of two vertices, made wider by a margin, covers."""
    coverage = np.zeros(points.shape[:2])
    left, top = np.maximum(np.floor(vertices.min(0) - margin - 1), 0).astype(int)
    right, bottom = np.maximum(np.ceil(vertices.max(0) + margin + 1), 0).astype(int)
    near = (slice(top, bottom), slice(left, right))  # all other pixels are farther away than half a pixel
    coverage[near] = (0.5 + margin - signed_distance(points[near], vertices)).clip(0, 1)
    return coverage


def painted(generator: np.random.Generator, canvas: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """The (H, W, 3) canvas with a shape, its (H, W) coverage, in a colour that can be told from what it covers."""
    below = (canvas * coverage[..., None]).sum((0, 1)) / coverage.sum()
    colour = generator.random(3)
    while np.abs(colour - below).max() < 0.3:
        colour = generator.random(3)
    shade = np.linspace(-1, 1, len(canvas))[:, None, None] * generator.uniform(-0.12, 0.12)
    return canvas + coverage[..., None] * (colour + shade - canvas)


def background(generator: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """(H, W, 3) smooth colours with clutter: blotches and thin lines."""
    size = len(points)
    coarse = generator.uniform(0.15, 0.85, 3) + generator.normal(0, 0.06, (3, 3, 3))
    image = Image.fromarray((coarse.clip(0, 1) * 255).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    canvas = np.asarray(image) / 255.0
    for _ in range(int(generator.integers(0, 6))):
        ends = generator.uniform(0, size, (2, 2))
        width = generator.uniform(0.4, 1.0)
        canvas = canvas + coverage_of(points, ends, width)[..., None] * (generator.random(3) - canvas)
    return canvas
