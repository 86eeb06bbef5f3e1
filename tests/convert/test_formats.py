"""Whole detectors of each program, by names and shapes alone, are recognized, renamed and fit the base config."""

from pathlib import Path

import pytest
import torch

from frcnn.config import load_config
from frcnn.convert.build_checkpoint import find_base_config, import_checkpoint
from frcnn.convert.class_rows import COCO_IDS, COCO_NAMES
from frcnn.errors import CheckpointError, ConfigError
from tests.convert import peers

D2_MEAN = torch.tensor([103.53, 116.28, 123.675]).reshape(3, 1, 1)
CAFFE_TEXT = """model = dict(backbone=dict(type='ResNet', norm_eval=True, style='caffe'))
img_norm_cfg = dict(
    mean=[102.9801, 115.9465, 122.7717], std=[1.0, 1.0, 1.0], to_rgb=False)"""


def load(shapes, *, like=None, class_names=None, overrides=(), name="file.pth", **entries):
    state = peers.meta(shapes)
    if "pixel_mean" in state:
        state |= {"pixel_mean": D2_MEAN, "pixel_std": torch.ones(3, 1, 1)}
    return import_checkpoint(
        {"model": state, **entries}, path=Path(name), like=like, class_names=class_names, overrides=overrides
    )


def config_of(imported):
    return imported.checkpoint["config"]


@pytest.mark.parametrize(
    ("shapes", "entries", "like"),
    [
        (peers.detectron2("fpn"), {}, "detectron2_resnet50_fpn"),
        (peers.detectron2("c4", network="resnet101"), {}, "detectron2_resnet101_c4"),
        (peers.detectron2("dc5"), {}, "detectron2_resnet50_dc5"),
        (peers.detectron2("fpn", network="resnext101_32x8d"), {}, "detectron2_resnext101_32x8d_fpn"),
        (peers.simple_faster_rcnn(), {}, "simple_faster_rcnn_vgg16"),
        (peers.jwyang("vgg16"), {"pooling_mode": "align", "class_agnostic": False}, "jwyang_vgg16"),
        (peers.jwyang("resnet101"), {"pooling_mode": "align", "class_agnostic": False}, "jwyang_resnet101"),
        (peers.mmdetection(), {}, "mmdetection_resnet50_fpn"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_every_tensor_is_converted(shapes, entries, like):
    imported = load(shapes, **entries)
    assert imported.like == like
    place = {"pixel_mean", "pixel_std"} | {name for name in shapes if "cell_anchors" in name}
    assert set(imported.conversion.skipped) == place & set(shapes)
    checkpoint = imported.checkpoint
    assert len(checkpoint["model"]) == len(shapes) - len(imported.conversion.skipped) + len(imported.filled)
    base = load_config(find_base_config(like), ["data.train.format=shapes", "data.val.format=shapes"])
    assert checkpoint["config"]["model"]["detect"] == base.model.detect.model_dump()
    assert checkpoint["step"] == 0 and checkpoint["source"]["format"] == imported.conversion.program


def test_detectron2_classes_pixels_and_data():
    imported = load(peers.detectron2("fpn"))
    assert imported.checkpoint["category_ids"] == COCO_IDS and imported.checkpoint["class_names"] == COCO_NAMES
    data = config_of(imported)["data"]
    assert data["mean"] == [103.53, 116.28, 123.675] and data["std"] == [1, 1, 1]
    assert data["val"]["annotations"] == "data/coco/annotations/instances_val2017.json"
    assert data["train"]["crowd"] == "drop" and data["val"]["crowd"] == "ignore"
    assert len(imported.filled) == 53  # frozen batch norm has no counters


def test_voc_in_the_programs_coordinates():
    data = config_of(load(peers.simple_faster_rcnn()))["data"]
    assert data["val"]["format"] == "voc" and data["val"]["coordinates"] == "minus_one"
    assert data["train"]["difficult"] == "drop" and data["val"]["difficult"] == "ignore"


@pytest.mark.parametrize(
    ("config", "name", "channels"),
    [
        ({"caffe_pretrain": True}, "x.pth", "bgr"),
        ({"caffe_pretrain": False}, "x_caffe_pretrain.pth", "rgb"),
        (None, "chainer_best_model_converted_to_pytorch_0.7053.pth", "bgr"),
        (None, "fasterrcnn_12211511_0.701052458187_torchvision_pretrain.pth", "rgb"),
    ],
)
def test_preprocessing_of_simple_faster_rcnn(config, name, channels):
    imported = load(peers.simple_faster_rcnn(second=3), name=name, config=config)
    data = config_of(imported)["data"]
    assert data["channels"] == channels
    assert data["mean"] == ([122.7717, 115.9465, 102.9801] if channels == "bgr" else [123.675, 116.28, 103.53])
    assert any("preprocessing of" in change for change in imported.conversion.changes) is (config is None)


def test_jwyang_settings():
    shapes = peers.jwyang("resnet101", num_classes=80, anchors=12, agnostic=True)
    model = config_of(load(shapes, pooling_mode="pool", class_agnostic=True))["model"]
    assert model["roi"]["pooling"]["kind"] == "roi_pool" and model["roi"]["class_agnostic"] is True
    assert model["anchors"]["sizes"] == [64, 128, 256, 512]
    with pytest.raises(CheckpointError, match=r"file.pth: pooling_mode 'crop' is not supported; only align and pool"):
        load(shapes, pooling_mode="crop", class_agnostic=True)
    with pytest.raises(CheckpointError, match="has 7 anchors per position, expected 9 or 12"):
        load(peers.jwyang("vgg16", anchors=7))


def test_mmdetection_settings():
    meta = {"CLASSES": tuple(COCO_NAMES), "config": CAFFE_TEXT}
    imported = load(peers.mmdetection(), meta=meta)
    config = config_of(imported)
    assert imported.classes.dataset == "coco"
    assert config["data"]["channels"] == "bgr" and config["data"]["mean"] == [102.9801, 115.9465, 122.7717]
    assert config["model"]["backbone"]["stride_in_1x1"] is True and config["model"]["plus_one"] is False
    names = [f"class {number}" for number in range(5)]
    old = load(peers.mmdetection(num_classes=5, version=1), meta={"dataset_meta": {"classes": names}})
    assert old.checkpoint["class_names"] == names and config_of(old)["data"]["classes"] == names
    assert config_of(old)["model"]["plus_one"] is True
    with pytest.raises(CheckpointError, match="5 class names for a file with 4"):
        load(peers.mmdetection(num_classes=4), meta={"CLASSES": names})


def test_overrides_take_precedence_over_the_file():
    overrides = ["data.mean=[1, 2, 3]", "data.val.format=voc", "data.val.root=x", "model.detect.score_threshold=0.3"]
    config = config_of(load(peers.detectron2("fpn"), overrides=overrides))
    assert config["data"]["mean"] == [1, 2, 3] and config["data"]["val"]["root"] == "x"
    assert config["model"]["detect"]["score_threshold"] == 0.3


def test_mismatches_are_named():
    shapes = peers.detectron2("fpn")
    without = {name: shape for name, shape in shapes.items() if name != "backbone.fpn_lateral3.bias"}
    with pytest.raises(CheckpointError, match=r"1 missing: backbone\.neck\.lateral\.1\.0\.bias"):
        load(without)
    odd = shapes | {"roi_heads.box_head.fc1.weight": (512, 12544)}
    with pytest.raises(CheckpointError, match=r"head\.fc6\.weight is \(512, 12544\), expected \(1024, 12544\)"):
        load(odd)
    with pytest.raises(CheckpointError, match=r"1 tensors belong to no layer .*: backbone\.bottom_up\.attention"):
        load(shapes | {"backbone.bottom_up.attention": (3,)})
    with pytest.raises(CheckpointError, match=r"1 unexpected: backbone\.body\.stem\.other"):
        load(shapes | {"backbone.bottom_up.stem.other": (3,)})
    with pytest.raises(CheckpointError, match=r"anchor_deltas|rpn\.deltas"):
        load(shapes | {"proposal_generator.rpn_head.anchor_deltas.weight": (16, 256, 1, 1)})
    with pytest.raises(CheckpointError, match="stages of 3, 4, 22, 3 blocks"):
        load(
            {name: shape for name, shape in peers.detectron2("fpn", network="resnet101").items() if "4.22." not in name}
        )


def test_two_names_for_one_layer():
    doubled = peers.mmdetection() | {"bbox_head.fc_cls.bias": (81,)}
    with pytest.raises(CheckpointError, match=r"bbox_head\.fc_cls\.bias and another tensor .* both map to roi_head"):
        load(doubled)


def test_masks_are_skipped_and_named():
    shapes = peers.detectron2("fpn") | peers.layer("roi_heads.mask_head.mask_fcn1", 256, 256, 3, 3)
    skipped = load(shapes).conversion.skipped
    assert skipped["roi_heads.mask_head.mask_fcn1.weight"] == "Faster R-CNN has no masks or keypoints"


def test_another_like():
    with pytest.raises(ConfigError, match="no base config resnet51; available: .*detectron2_resnet50_fpn"):
        load(peers.detectron2("fpn"), like="resnet51")
    with pytest.raises(CheckpointError, match="tensors do not match detectron2_resnet50_c4"):
        load(peers.detectron2("fpn"), like="detectron2_resnet50_c4")


def test_anchors_need_three_ratios():
    with pytest.raises(CheckpointError, match="10 anchors per position; their order is known only for 3 ratios"):
        load(peers.detectron2("c4", anchors=10))
    with pytest.raises(CheckpointError, match=r"model\.anchors\.ratios has 5 entries"):
        load(
            peers.detectron2("c4"),
            overrides=["model.anchors.ratios=[0.2, 0.5, 1, 2, 5]", "model.anchors.sizes=[1, 2, 3]"],
        )


def test_files_of_unknown_programs():
    with pytest.raises(CheckpointError, match=r"file.pth: not a detector of a known program .* are conv1.weight"):
        load({"conv1.weight": (64, 3, 7, 7), "fc.weight": (10, 10)})
    with pytest.raises(CheckpointError, match="file.pth: no tensors found"):
        load({})
    ours = {"model": {"rpn.convs.0.weight": torch.zeros(1)}, "format": 1, "config": {}, "class_names": ["a"]}
    with pytest.raises(CheckpointError, match="this is already a frcnn checkpoint; --to torchvision"):
        import_checkpoint(ours, path=Path("x"), like=None, class_names=None, overrides=())


def test_the_prefix_of_ddp_is_removed():
    shapes = {f"module.{name}": shape for name, shape in peers.mmdetection().items()}
    assert load(shapes).like == "mmdetection_resnet50_fpn"


def test_float16_becomes_float32():
    shapes = peers.mmdetection()
    state = {name: tensor.half() if tensor.dim() else tensor.long() for name, tensor in peers.meta(shapes).items()}
    imported = import_checkpoint(state, path=Path("x"), like=None, class_names=None, overrides=())
    dtypes = {tensor.dtype for name, tensor in imported.checkpoint["model"].items() if "num_batches" not in name}
    assert dtypes == {torch.float32} and len(imported.cast) == sum(len(shape) > 0 for shape in shapes.values())
