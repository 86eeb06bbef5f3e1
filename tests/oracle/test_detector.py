"""Whole detectors against torchvision's with the same weights: v1, v2, MobileNetV3 and MobileNetV3 for 320 pixels.

The images are small drawings, and photographs if they are available.
"""

import copy

import pytest
import torch
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional as F

from frcnn.convert.from_torchvision import convert
from frcnn.data.formats.shapes import ShapesDataset
from frcnn.data.images import read_image
from frcnn.data.problems import ErrorPolicy
from frcnn.model.detector import FasterRCNN
from frcnn.ops import sampling
from frcnn.structures import Batch, GroundTruth
from tests.oracle import torchvision_models
from tests.oracle.torchvision_models import MEAN, NAMES, STD, FirstInOrder, our_detector, random_model

NUM_CLASSES = 12
DRAWN_SIZES = [(96, 150), (128, 100), (110, 128)]  # (height, width)
SIZES = [(200, 288), (224, 160), (230, 301)]  # (height, width) after the resize


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module", params=["drawn", pytest.param("photographs", marks=pytest.mark.slow)])
def images(request):
    if request.param == "drawn":
        return [draw(*size, seed=seed) for seed, size in enumerate(DRAWN_SIZES)]
    folder = request.getfixturevalue("shared_path")("datasets/coco200/val2017")
    paths = sorted(folder.glob("*.jpg"))[: len(SIZES)]
    return [F.resize(read_image(path), list(size), antialias=True) for path, size in zip(paths, SIZES, strict=True)]


@pytest.fixture(scope="module")
def theirs(name, images):
    return random_model(name, images[:2], num_classes=NUM_CLASSES)


def draw(height, width, *, seed):
    problems = ErrorPolicy("raise")
    return ShapesDataset(num_images=1, seed=seed, height=height, width=width, problems=problems).read_image(0)


def pad(images):
    height, width = ((max(image.shape[axis] for image in images) + 31) // 32 * 32 for axis in (1, 2))
    padded = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
    for slot, image in zip(padded, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return padded, torch.tensor([image.shape[1:] for image in images])


@torch.no_grad()
@pytest.mark.parametrize(
    ("dtype", "pixels", "score"),
    [(torch.float32, 1e-3, 1e-5), pytest.param(torch.float64, 1e-5, 1e-6, marks=pytest.mark.heavy)],
)
def test_detections_equal_torchvision_one_by_one_and_as_a_padded_batch(name, theirs, images, dtype, pixels, score):
    theirs = copy.deepcopy(theirs).to(dtype)
    ours = our_detector(name, theirs, num_classes=NUM_CLASSES, dtype=dtype).eval()
    for group in (*([image] for image in images), images):
        expected = torchvision_models.detections(theirs, group, dtype)
        found = ours.forward_detect(*pad(group))
        compared = 0
        for image, expected_of_image in enumerate(expected):
            assert_same_up_to_ties(found, image, expected_of_image, pixels=pixels, score=score)
            compared += len(expected_of_image["boxes"])
        assert compared >= 10 * len(group), "too few detections to say anything"


def assert_same_up_to_ties(found, image, expected, *, pixels, score):
    """Check that the lists are equal; detections whose scores agree to `score` may be in any order."""
    valid = found.valid[image]
    assert valid.sum() == len(expected["boxes"])
    boxes, scores, labels = found.boxes[image][valid], found.scores[image][valid], found.labels[image][valid]
    torch.testing.assert_close(scores, expected["scores"], atol=score, rtol=0)
    distance = (boxes[:, None] - expected["boxes"]).abs().amax(dim=2)
    is_same = (distance <= pixels) & (labels[:, None] == expected["labels"])
    is_same &= (scores[:, None] - expected["scores"]).abs() <= score
    assert is_same.any(dim=0).all() and is_same.any(dim=1).all()


def test_pixels_are_normalised_as_torchvision_does(images):
    theirs = GeneralizedRCNNTransform(1, 1, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected = theirs.batch_images([theirs.normalize(image / 255) for image in images])
    ours = FasterRCNN.__new__(FasterRCNN)
    nn.Module.__init__(ours)
    ours.channels = "rgb"
    ours.mean, ours.std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    torch.testing.assert_close(ours.normalise(*pad(images)), expected, atol=1e-6, rtol=1e-5)


@pytest.fixture
def first_in_order(monkeypatch):
    """Keys of the sampler that fall with the position, so that the first candidates are sampled."""

    def fall(seed, position, *, purpose):
        return torch.arange(position.shape[-1], 0, -1).expand(len(seed), -1)

    monkeypatch.setattr(sampling, "random_keys", fall)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.heavy)])
def test_losses_and_gradients_equal_torchvision_on_the_same_samples(name, theirs, images, dtype, first_in_order):
    images = images[:2]
    theirs = copy.deepcopy(theirs).to(dtype).train()
    trains_norm = name.endswith("v2")
    ours = our_detector(name, theirs, num_classes=NUM_CLASSES, dtype=dtype, model__backbone__frozen_stages=0).train()
    if not trains_norm:
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval().requires_grad_(False)
    theirs.rpn.fg_bg_sampler = FirstInOrder(256, 0.5)
    theirs.roi_heads.fg_bg_sampler = FirstInOrder(64, 0.25)
    torch.manual_seed(0)
    targets = [random_targets(image.shape, count, dtype) for image, count in zip(images, (4, 7), strict=True)]

    mine = list(ours.forward_train(batch_with(images, targets, dtype)).values())
    other = torchvision_models.losses(theirs, images, targets, dtype)
    for one, two in zip(mine, other, strict=True):
        assert one > 0
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5, check_dtype=False)

    sum(mine).backward()
    sum(other).backward()
    expected = {key: parameter.grad for key, parameter in theirs.named_parameters() if parameter.grad is not None}
    expected = convert(expected, None, file_name="").state
    found = {key: parameter.grad for key, parameter in ours.named_parameters() if parameter.grad is not None}
    assert found.keys() == expected.keys() and len(found) > 30
    tolerance = 1e-4 if dtype == torch.float64 else 0.05  # in float32 rounding may switch a ReLU or a hard swish
    for key, gradient in found.items():
        error = (gradient - expected[key]).norm() / expected[key].norm().clamp(min=1e-8)
        assert error < tolerance, (key, float(error))


def random_targets(shape, count, dtype):
    height, width = shape[1:]
    corner = torch.rand(count, 2) * torch.tensor([width, height]) * 0.6
    boxes = torch.cat([corner, corner + 12 + torch.rand(count, 2) * 0.35 * torch.tensor([width, height])], dim=1)
    return {"boxes": boxes.to(dtype), "labels": torch.randint(1, NUM_CLASSES + 1, (count,))}


def batch_with(images, targets, dtype):
    padded, sizes = pad(images)
    slots = 8
    boxes = torch.tensor([0.0, 0, 1, 1], dtype=dtype).repeat(len(images), slots, 1)
    labels = torch.zeros(len(images), slots, dtype=torch.int64)
    valid = torch.zeros(len(images), slots, dtype=torch.bool)
    for image, target in enumerate(targets):
        count = len(target["boxes"])
        boxes[image, :count], labels[image, :count], valid[image, :count] = target["boxes"], target["labels"], True
    ground_truth = GroundTruth(boxes, labels, torch.zeros_like(valid), valid)
    index = torch.arange(len(images))
    return Batch(padded, sizes, sizes, index, index, ground_truth)
