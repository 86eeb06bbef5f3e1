"""What `draw_boxes` and the pictures built on it draw, and where."""

import numpy as np
import pytest
import torch

from frcnn.draw.boxes import GREY, WHITE, Mark, as_picture, class_colour, draw_boxes, draw_comparison, draw_detections
from tests.evaluation.examples import make_detections, make_record

NAMES = ["cat", "dog"]


def grey_image(height=120, width=160):
    return torch.full((3, height, width), 90, dtype=torch.uint8)


def changed(picture, image):
    """(H, W) bool: pixels that were drawn on."""
    return (np.asarray(picture) != image.permute(1, 2, 0).numpy()).any(axis=2)


def test_a_box_covers_its_outermost_pixels():
    """The edges 40 and 100 are continuous coordinates: the box covers the pixels 40 to 99."""
    found = make_detections([[40, 50, 100, 90]], [0.9], [1])
    picture = np.asarray(draw_detections(grey_image(), found, NAMES))
    for row, column in ((50, 70), (89, 70), (70, 40), (70, 99)):
        assert tuple(picture[row, column]) == class_colour(1)
    for row, column in ((70, 39), (70, 100), (90, 70), (70, 70)):
        assert tuple(picture[row, column]) == (90, 90, 90)


def test_detections_below_the_threshold_are_not_drawn():
    image = grey_image()
    found = make_detections([[40, 50, 100, 90]], [0.4], [1])
    assert not changed(draw_detections(image, found, NAMES), image).any()
    assert changed(draw_detections(image, found, NAMES, score_threshold=0.4), image).any()
    assert not changed(draw_detections(image, make_detections([], [], []), NAMES), image).any()
    assert (image == 90).all()


def test_ground_truth_on_the_left_detections_on_the_right():
    image = grey_image()
    record = make_record([[10, 40, 50, 80], [60, 40, 150, 110]], [1, 2], difficult=[1])
    found = make_detections([[12, 41, 52, 80]], [0.8], [1])
    picture = draw_comparison(image, found, record, NAMES)
    height, width = picture.height, picture.width
    assert width >= 320 and height > 120
    pixels = np.asarray(picture)
    assert (pixels[:, :160] == class_colour(1)).all(axis=2).any()
    assert (pixels[:, -160:] == class_colour(1)).all(axis=2).any()
    assert not (pixels[:, :160] == class_colour(2)).all(axis=2).any(), "an ignore region is gray, whatever its class"


@pytest.mark.parametrize("size", [(8, 8), (16, 400), (1500, 2000)])
def test_images_of_any_size_and_boxes_across_the_border(size):
    height, width = size
    boxes = [[-5, -5, width + 5, height + 5], [width - 1, height - 1, width, height], [3, 3, 3, 3], [0, 0, width, 2]]
    found = make_detections(boxes, [0.9, 0.8, 0.7, 0.6], [1, 2, 1, 2])
    assert draw_detections(grey_image(*size), found, NAMES).size == (width, height)
    record = make_record(boxes, [1, 2, 1, 2], crowd=[0, 1])
    assert draw_comparison(grey_image(*size), found, record, NAMES).height > height


def test_letters_grow_with_the_image():
    def label_area(side):
        image = grey_image(side, side)
        found = make_detections([[side / 4, side / 4, side / 2, side / 2]], [0.9], [1])
        return changed(draw_detections(image, found, NAMES), image)[: side // 4].sum()

    assert label_area(1600) > 5 * label_area(200)


def test_colours_are_distinct():
    colours = np.array([class_colour(label) for label in range(1, 21)], float)
    distance = np.abs(colours[:, None] - colours[None]).sum(axis=2)
    assert distance[~np.eye(20, dtype=bool)].min() > 30


def test_labels_of_neighbours_do_not_cover_each_other():
    """Two boxes share an upper edge: one label is above it, the other inside."""
    image = grey_image(200, 200)
    boxes = [[50, 60, 150, 150], [52, 60, 152, 150]]
    both = changed(draw_detections(image, make_detections(boxes, [0.9, 0.8], [1, 1]), NAMES), image)
    above, inside = both[40:60, 50:100].any(axis=1), both[64:80, 60:90]
    assert above.any() and inside.mean() > 0.3


def test_edges_far_outside_the_picture():
    """Pillow accepts only 32-bit coordinates; annotation files may contain any number."""
    picture = as_picture(grey_image())
    draw_boxes(picture, [Mark([-1e30, 10, 1e30, 100], (255, 0, 0))], width=1)
    drawn = changed(picture, grey_image())
    assert drawn[10].all() and drawn[99].all() and drawn.sum() == 2 * 160


def test_styles_of_lines():
    image = grey_image()
    marks = [
        Mark([20, 20, 120, 100], GREY, line="dashed"),
        Mark([50, 30, 90, 70], WHITE, line="thin"),
        Mark([130, 80, 132, 82], (230, 20, 20), is_ringed=True),
    ]
    picture = as_picture(image)
    draw_boxes(picture, marks, width=2)
    pixels = np.asarray(picture)
    edge = {tuple(pixel) for pixel in pixels[20, 20:120]}
    assert edge == {GREY, (0, 0, 0)}, "dashes alternate with black"
    assert tuple(pixels[30, 60]) == WHITE and tuple(pixels[31, 60]) == (0, 0, 0)
    assert tuple(pixels[80, 110]) == (230, 20, 20), "the ring is 20 pixels from the tiny box"
