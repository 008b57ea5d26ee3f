"""Boxes, masks and classes drawn over images."""

from __future__ import annotations

import numpy as np
from PIL import Image

from visionssm.drawing import (
    GAP,
    below,
    beside,
    class_colour,
    class_legend,
    draw_classes,
    draw_objects,
    shown_scale,
    with_legend,
    with_title,
)

GREY = Image.new("RGB", (40, 30), (100, 100, 100))


def test_boxes_are_outlined_masks_tinted_and_the_rest_unchanged() -> None:
    mask = np.zeros((1, 30, 40), bool)
    mask[0, 12:18, 12:18] = True
    boxes = np.array([[10.0, 10, 20, 20]])
    drawn = np.asarray(draw_objects(GREY, boxes, [""], [(255, 0, 0)], mask))
    assert drawn[10, 10:20].tolist() == [[255, 0, 0]] * 10
    assert drawn[19, 10:20].tolist() == [[255, 0, 0]] * 10
    assert drawn[14, 14].tolist() == [178, 50, 50]
    assert drawn[11, 11].tolist() == [100, 100, 100]
    assert (drawn[:, 22:] == 100).all()


def test_names_are_written_inside_the_picture_also_at_its_edges() -> None:
    boxes = np.array([[0.0, 0, 5, 5], [35, 25, 40, 30]])
    plain = draw_objects(GREY, boxes, ["", ""], [(255, 0, 0), (0, 255, 0)], scale=6)
    named = draw_objects(GREY, boxes, ["circle", "a long name"], [(255, 0, 0), (0, 255, 0)], scale=6)
    assert named.size == (240, 180)
    changed = (np.asarray(plain) != np.asarray(named)).any(-1)
    assert changed[:90].sum() > 100
    assert changed[90:].sum() > 100


def test_classes_but_the_first_and_the_ignored_are_tinted() -> None:
    numbers = np.zeros((30, 40), np.uint8)
    numbers[:10], numbers[20:] = 2, 255
    drawn = np.asarray(draw_classes(GREY, numbers, scale=2))
    assert drawn.shape == (60, 80, 3)
    assert (drawn[20:] == 100).all()
    assert np.abs(drawn[0, 0].astype(int) - 100).max() > 30


def test_first_objects_lie_on_top_and_names_do_not_hide_each_other() -> None:
    boxes, red, green = np.array([[5.0, 8, 30, 25]] * 2), (255, 0, 0), (0, 255, 0)
    masks = np.zeros((2, 30, 40), bool)
    masks[:, 12:20, 10:25] = True
    drawn = np.asarray(draw_objects(GREY, boxes, ["first", "second"], [red, green], masks, scale=6))
    assert drawn[8 * 6, 20 * 6].tolist() == list(red), "outline"
    assert drawn[16 * 6, 15 * 6, 0] > drawn[16 * 6, 15 * 6, 1], "mask"
    alone = np.asarray(draw_objects(GREY, boxes[:1], ["first"], [red], masks[:1], scale=6))
    name = (slice(2 * 6, 8 * 6), slice(5 * 6, 12 * 6))
    assert np.array_equal(drawn[name], alone[name])
    assert (drawn == np.array(green)).all(-1).sum() > 100, "the second name stands elsewhere"


def test_legend_names_the_tinted_classes_in_their_colours() -> None:
    numbers = np.array([[0, 2, 2, 255, 9]])
    entries = class_legend(["nothing", "a", "b"], numbers)
    assert entries == [("b", class_colour(1)), ("class 9", class_colour(8))]
    shown = with_legend(GREY, entries)
    assert shown.width == GREY.width
    below_it = np.asarray(shown)[GREY.height :]
    for _, colour in entries:
        assert (below_it == np.array(colour)).all(-1).sum() > 20
    assert with_legend(GREY, []).size == GREY.size


def test_colours_of_classes_differ() -> None:
    colours = np.array([class_colour(number) for number in range(12)], float)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1e3 * np.eye(12)
    assert distance.min() > 30


def test_pictures_are_put_side_by_side_and_below_each_other() -> None:
    assert beside([GREY, GREY]).size == (80 + GAP, 30)
    assert below([GREY, with_title(GREY, "x")]).size == (40, 60 + GAP + 16)


def test_small_images_are_enlarged_and_large_ones_left() -> None:
    assert shown_scale(Image.new("RGB", (64, 32))) > 3
    assert shown_scale(Image.new("RGB", (2000, 10))) == 1
