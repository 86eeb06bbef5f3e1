"""Detectron2's R50-FPN or R101-FPN, where Detectron2 is installed, with our detector's weights and numbers.

Written from Detectron2's documentation and source; it has not been run, as no installation was at hand.
"""

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from frcnn.benchmark.scene import Scene
from frcnn.benchmark.sides import Found, Side
from frcnn.config.schema import Config
from frcnn.convert.conversion import CLASSES, rename
from frcnn.convert.from_detectron2 import LEAVE_OUT, RULES
from frcnn.inference.run import Precision
from frcnn.model.detector import FasterRCNN
from frcnn.structures import Losses

DEPTHS = {"resnet50": 50, "resnet101": 101}
ZOO = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"


def is_installed() -> bool:
    return importlib.util.find_spec("detectron2") is not None


def obstacles(config: Config) -> list[str]:
    """What of a config's structure this has nothing for, or that Detectron2 is not there."""
    if not is_installed():
        return ["detectron2 is not installed"]
    model = config.model
    wanted: dict[str, tuple[Any, tuple]] = {
        "model.plus_one": (model.plus_one, (False,)),
        "model.backbone.name": (model.backbone.name, tuple(DEPTHS)),
        "model.backbone.neck": (model.backbone.neck, ("fpn",)),
        "model.backbone.neck_norm": (model.backbone.neck_norm, ("none",)),
        "model.backbone.strides": (model.backbone.strides, (None, [4, 8, 16, 32])),
        "model.backbone.extra_level": (model.backbone.extra_level, (True,)),
        "model.backbone.stem_pool": (model.backbone.stem_pool, ("padded",)),
        "model.rpn.channels": (model.rpn.channels, (None,)),
        "model.rpn.convs": (model.rpn.convs, (1,)),
        "model.rpn.objectness": (model.rpn.objectness, ("sigmoid",)),
        "model.roi.head.kind": (model.roi.head.kind, ("two_fc",)),
        "model.roi.head.convs": (model.roi.head.convs, (0,)),
        "model.roi.pooling.kind": (model.roi.pooling.kind, ("roi_align",)),
        "model.roi.class_agnostic": (model.roi.class_agnostic, (False,)),
    }
    return [f"{key} is {value}" for key, (value, allowed) in wanted.items() if value not in allowed]


def adapted(config: Config) -> dict[str, Any]:
    """Keys whose value Detectron2 knows one of only: our side takes it over for the comparison."""
    return {
        "model.anchors.rounding": "none",
        "model.anchors.centre": "corner",
        "model.anchors.strides_from": "level",
        "model.max_growth": 62.5,
        "model.rpn.skip_padding": False,
        "model.rpn.inside_only": False,
        "model.rpn.min_box_size": 0.0,
        "model.rpn.score_threshold": 0.0,
        "model.rpn.post_nms_top_n_per_level": None,
        "model.rpn.iou_low_quality": 0.0,
        "model.rpn.normaliser": "constant",
        "model.roi.iou_negative_low": 0.0,
        "model.roi.add_ground_truth": True,
        "model.roi.pooling.canonical_size": 224.0,
        "model.roi.pooling.canonical_level": 4,
        "model.roi.pooling.level_rule": "detectron2",
        "model.detect.min_box_size": 0.0,
    }


def build_detectron2(config: Config, ours: FasterRCNN, *, num_classes: int, device: torch.device) -> Any:
    """Build theirs beside ours: `ours` is of the same config, and its weights go into theirs."""
    cfg = importlib.import_module("detectron2.model_zoo").get_config(ZOO)
    model, anchors = config.model, config.model.anchors
    backbone, rpn, roi = model.backbone, model.rpn, model.roi
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = str(device)
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(config.data.mean), list(config.data.std)
    cfg.MODEL.RESNETS.DEPTH = DEPTHS[backbone.name]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = backbone.stride_in_1x1
    cfg.MODEL.RESNETS.NORM = "FrozenBN" if backbone.norm == "frozen_bn" else "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = backbone.frozen_stages
    cfg.MODEL.FPN.OUT_CHANNELS = backbone.neck_channels
    per_level = all(isinstance(level, list) for level in anchors.sizes)
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = list(anchors.sizes) if per_level else [list(anchors.sizes)]  # one for all levels
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [list(anchors.ratios)]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN, cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = rpn.pre_nms_top_n.train, rpn.pre_nms_top_n.test
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = rpn.post_nms_top_n.train
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = rpn.post_nms_top_n.test
    cfg.MODEL.RPN.NMS_THRESH = rpn.nms_threshold
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE, cfg.MODEL.RPN.POSITIVE_FRACTION = rpn.samples_per_image, rpn.positive_fraction
    cfg.MODEL.RPN.IOU_THRESHOLDS = [rpn.iou_negative, rpn.iou_positive]
    cfg.MODEL.RPN.SMOOTH_L1_BETA = rpn.smooth_l1_beta
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = roi.samples_per_image
    cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = roi.positive_fraction
    cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS = [roi.iou_positive]
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = model.detect.score_threshold
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = model.detect.nms_threshold
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIAlignV2" if roi.pooling.aligned else "ROIAlign"
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = roi.pooling.size
    cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = roi.pooling.sampling_ratio
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = roi.head.channels
    cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA = roi.smooth_l1_beta
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS = list(roi.box_weights)
    cfg.TEST.DETECTIONS_PER_IMAGE = model.detect.max_detections
    theirs = importlib.import_module("detectron2.modeling").build_model(cfg)
    state = theirs.state_dict()
    theirs.load_state_dict(state | in_their_names(ours.state_dict(), list(state)))
    return theirs


def in_their_names(state: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Our tensors by Detectron2's names, background last.

    Args:
        names: of Detectron2's state dict.
    """
    renamed: Any = rename({name: name for name in names}, RULES, leave_out=LEAVE_OUT)[0]  # type: ignore[dict-item]
    tensors = {name: state[ours] for ours, name in renamed.items() if ours in state}
    for part in ("weight", "bias"):
        name = renamed[f"{CLASSES}.{part}"]
        tensors[name] = tensors[name].roll(-1, 0)
    return tensors


class Detectron2(Side):
    """Its pixels are uint8 as ours, in the network's order of channels."""

    name = "detectron2"

    def __init__(
        self, model: Any, scene: Scene, *, optimizer: torch.optim.Optimizer | None, precision: Precision
    ) -> None:
        super().__init__(model, scene, optimizer=optimizer, precision=precision)
        structures = importlib.import_module("detectron2.structures")
        self.events = importlib.import_module("detectron2.utils.events")
        self.inputs = []
        for image, target in zip(scene.images, scene.targets, strict=True):
            height, width = image.shape[1:]
            instances = structures.Instances((height, width))
            instances.gt_boxes = structures.Boxes(target["boxes"])
            instances.gt_classes = target["labels"] - 1
            self.inputs.append(
                {"image": image.to(torch.uint8), "height": height, "width": width, "instances": instances}
            )

    def set_mode(self, *, is_training: bool) -> None:
        self.model.train(is_training)

    def losses(self) -> Losses:
        with self.events.EventStorage():
            losses = self.model(self.inputs)
        return Losses(losses["loss_rpn_cls"], losses["loss_rpn_loc"], losses["loss_cls"], losses["loss_box_reg"])

    def forward_detect(self) -> Any:
        return self.model(self.inputs)

    def found(self, result: Any) -> list[Found]:
        instances = [each["instances"] for each in result]
        return [(each.pred_boxes.tensor, each.scores, each.pred_classes + 1) for each in instances]
