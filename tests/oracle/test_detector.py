"""The whole detector against torchvision's `fasterrcnn_resnet50_fpn` with the same weights.

On photographs where they are there, and everywhere on small drawn images.
"""

import copy

import pytest
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.transforms.v2 import functional as F

from frcnn.data.images import read_image
from frcnn.data.problems import ErrorPolicy
from frcnn.data.shapes import ShapesDataset
from tests.oracle.torchvision_weights import detector_like

NUM_CLASSES = 20
DRAWN_SIZES = [(96, 150), (128, 100), (110, 128)]  # (height, width)
SIZES = [(200, 288), (224, 160), (256, 256), (160, 250), (230, 301)]  # (height, width) after the resize


def scale_outputs(model, images, spread):
    """Divide the weights of some layers so that their outputs on `images` have a given standard deviation.

    Activations of a trained network have about unit size; those of random weights grow from layer to layer until
    every score is 0 or 1 and nothing can be told from the detections.
    """

    def rescale(module, inputs, output):
        if module not in done:
            done.add(module)
            module.weight.data *= spread[module] / output.std()
            return output * (spread[module] / output.std())
        return output

    done = set()
    hooks = [module.register_forward_hook(rescale) for module in spread]
    torchvision_detections(model, images)
    for hook in hooks:
        hook.remove()


@pytest.fixture(scope="module")
def theirs(images):
    torch.manual_seed(3)
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.8, 1.2)
        elif name.endswith("bn3.weight"):
            buffer.fill_(0.3)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.05)
    head, predictor = model.roi_heads.box_head, model.roi_heads.box_predictor
    spread = {block[0]: 1.0 for block in model.backbone.fpn.layer_blocks}
    spread |= {model.rpn.head.conv[0][0]: 1.0, model.rpn.head.cls_logits: 2.0, model.rpn.head.bbox_pred: 0.3}
    spread |= {head.fc6: 1.0, head.fc7: 1.0, predictor.cls_score: 2.0, predictor.bbox_pred: 0.5}
    scale_outputs(model, images[:1], spread)
    return model


@pytest.fixture(scope="module", params=["drawn", "photographs"])
def images(request):
    if request.param == "drawn":
        return [draw(*size, seed=seed) for seed, size in enumerate(DRAWN_SIZES)]
    folder = request.getfixturevalue("shared_path")("datasets/coco200/val2017")
    paths = sorted(folder.glob("*.jpg"))[: len(SIZES)]
    return [F.resize(read_image(path), list(size), antialias=True) for path, size in zip(paths, SIZES, strict=True)]


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
def torchvision_detections(model, images, dtype=torch.float32):
    """Their network from the padded batch on, as our loader has done the resize already."""
    normalised = [model.transform.normalize(image.to(dtype) / 255) for image in images]
    batch = model.transform.batch_images(normalised, size_divisible=32)
    image_list = ImageList(batch, [tuple(image.shape[1:]) for image in images])
    features = model.backbone(image_list.tensors)
    proposals, _ = model.rpn(image_list, features)
    return model.roi_heads(features, proposals, image_list.image_sizes)[0]


def assert_same(ours, theirs, *, pixels, score):
    compared = 0
    for image, expected in enumerate(theirs):
        valid = ours.valid[image]
        assert valid.sum() == len(expected["boxes"])
        torch.testing.assert_close(ours.boxes[image][valid], expected["boxes"], atol=pixels, rtol=0)
        torch.testing.assert_close(ours.scores[image][valid], expected["scores"], atol=score, rtol=0)
        assert torch.equal(ours.labels[image][valid], expected["labels"])
        compared += len(expected["boxes"])
    assert compared >= 10 * len(theirs), "too few detections to say anything"


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "pixels", "score"), [(torch.float32, 1e-3, 5e-5), (torch.float64, 1e-5, 1e-5)])
def test_detections_equal_torchvision_one_by_one_and_as_a_padded_batch(theirs, images, dtype, pixels, score):
    theirs = copy.deepcopy(theirs).to(dtype)
    ours = detector_like(theirs, num_classes=NUM_CLASSES).to(dtype).eval()
    for group in (*([image] for image in images), images):
        expected = torchvision_detections(theirs, group, dtype)
        assert_same(ours.forward_detect(*pad(group)), expected, pixels=pixels, score=score)
