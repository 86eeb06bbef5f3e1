"""Anchors against torchvision's generator."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchors
from torchvision.models.detection.image_list import ImageList

from frcnn.model.rpn.anchors import AnchorGenerator, cell_anchors

RATIOS = (0.5, 1.0, 2.0)


@pytest.mark.parametrize("canvas", [(320, 352), (800, 1088), (608, 800)])
def test_pyramid_anchors_equal_torchvision(canvas):
    sizes = [[32.0], [64.0], [128.0], [256.0], [512.0]]
    map_sizes = [(canvas[0] // s, canvas[1] // s) for s in (4, 8, 16, 32)]
    map_sizes.append(((map_sizes[-1][0] + 1) // 2, (map_sizes[-1][1] + 1) // 2))
    ours = AnchorGenerator(
        sizes=sizes, ratios=RATIOS, strides=(4, 8, 16, 32, 64), rounding="torchvision", strides_from="canvas"
    )
    theirs = TorchvisionAnchors(tuple(map(tuple, sizes)), (RATIOS,) * 5)
    maps = [torch.zeros(1, 1, *size) for size in map_sizes]
    expected = theirs(ImageList(torch.zeros(1, 3, *canvas), [canvas]), maps)[0]
    assert torch.equal(ours(map_sizes, canvas), expected)


def test_single_map_anchors_equal_torchvision():
    ours = AnchorGenerator(sizes=[[128, 256, 512]], ratios=RATIOS, strides=(16,), rounding="torchvision")
    theirs = TorchvisionAnchors(((128, 256, 512),), (RATIOS,))
    expected = theirs(ImageList(torch.zeros(1, 3, 320, 352), [(320, 352)]), [torch.zeros(1, 1, 20, 22)])[0]
    assert torch.equal(ours([(20, 22)], (320, 352)), expected)


def test_strides_of_the_level_are_exact_if_the_canvas_is_not_a_multiple():
    """800 // 13 is 61, but positions of P6 are 64 pixels apart."""
    ours = AnchorGenerator(sizes=[[512]], ratios=[1.0], strides=(64,))
    anchors = ours([(13, 13)], (800, 800))
    assert anchors[1, 0] - anchors[0, 0] == 64


def test_cell_anchors_keep_area_and_ratio():
    anchors = cell_anchors([32.0, 64.0], [0.5, 1.0, 2.0])
    size = anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(size.prod(dim=1), torch.tensor([1024.0, 4096.0] * 3))
    torch.testing.assert_close(size[:, 1] / size[:, 0], torch.tensor([0.5, 0.5, 1.0, 1.0, 2.0, 2.0]))


def test_every_level_needs_the_same_number_of_sizes():
    with pytest.raises(ValueError, match="levels"):
        AnchorGenerator(sizes=[[1.0]], ratios=RATIOS, strides=(4, 8))
    with pytest.raises(ValueError, match="same number"):
        AnchorGenerator(sizes=[[1.0], [1.0, 2.0]], ratios=RATIOS, strides=(4, 8))
