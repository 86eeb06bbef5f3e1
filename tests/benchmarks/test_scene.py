"""Scenes: images and ground truth in the forms of both sides."""

import torch

from frcnn.analyze.scene import SceneSettings, draw_scene, made_up_boxes

SETTINGS = SceneSettings(
    size=(80, 100), short_side=80, long_side=100, batch=3, objects=None, num_classes=2, channels="rgb"
)


def test_both_forms_have_the_same_content():
    scene = draw_scene(SETTINGS)
    assert scene.batch.images.shape == (3, 3, 96, 128)
    for row, (image, target) in enumerate(zip(scene.images, scene.targets, strict=True)):
        assert torch.equal(image, scene.batch.images[row, :, :80, :100].float())
        valid = scene.batch.ground_truth.valid[row]
        assert torch.equal(scene.batch.ground_truth.boxes[row][valid], target["boxes"])
        assert torch.equal(scene.batch.ground_truth.labels[row][valid], target["labels"])
        assert set(target["labels"].tolist()) in ({1}, {2}, {1, 2})


def test_the_peer_gets_bgr_channels():
    rgb, bgr = draw_scene(SETTINGS), draw_scene(SETTINGS._replace(channels="bgr"))
    assert torch.equal(rgb.images[0].flip(0), bgr.images[0])
    assert torch.equal(rgb.batch.images, bgr.batch.images)


def test_generated_objects_are_inside_the_image():
    boxes = made_up_boxes(500, (60, 90), torch.Generator().manual_seed(0))
    assert (boxes >= 0).all() and (boxes[:, 2] <= 90).all() and (boxes[:, 3] <= 60).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    scene = draw_scene(SETTINGS._replace(objects=70))
    assert scene.batch.ground_truth.valid.sum(dim=1).tolist() == [70] * 3


def test_images_smaller_than_the_smallest_drawing():
    scene = draw_scene(SETTINGS._replace(size=(40, 50)))
    assert scene.images[0].shape == (3, 40, 50)
