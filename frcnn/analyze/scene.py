"""Images and ground truth for analysis and for both sides of a benchmark."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from frcnn.data.augment.resize import resize, resize_boxes, resized_size
from frcnn.data.batching import Sample, collate
from frcnn.data.dataset import DetectionDataset
from frcnn.data.formats.shapes import ShapesDataset
from frcnn.data.problems import ErrorPolicy
from frcnn.structures import Batch

SMALLEST_DRAWN = 64
"""Pixels of the shortest side that `shapes` draws."""
SMALLEST_BOX, LARGEST_SHARE = 12.0, 0.6
"""Sides of generated objects: in pixels, and as a share of the image's shorter side."""


class Scene(NamedTuple):
    """One batch, in the formats of both sides."""

    batch: Batch
    """The batch of our detector."""
    images: list[Tensor]
    """For peers: (3, h, w) float32 in 0..255, in the network's order of channels, without padding."""
    targets: list[dict[str, Tensor]]
    """For peers: boxes (n, 4) float32 and labels (n,) int64 of each image."""
    origin: str
    """Source of the images, for messages."""

    def to(self, device: torch.device) -> "Scene":
        """Copy the scene to `device`."""
        return Scene(
            self.batch.to(device),
            [image.to(device) for image in self.images],
            [{name: value.to(device) for name, value in target.items()} for target in self.targets],
            self.origin,
        )


class SceneSettings(NamedTuple):
    """Sizes and numbers of a scene."""

    size: tuple[int, int] | None
    """(height, width) of every image; None applies short_side and long_side."""
    short_side: int
    long_side: int
    batch: int
    objects: int | None
    """Number of generated objects per image; None uses the objects of the images."""
    num_classes: int
    channels: str
    """"rgb" or "bgr"."""


def read_scene(dataset: DetectionDataset, settings: SceneSettings) -> Scene:
    """Read the first images of a dataset that contain objects, repeated if there are too few.

    Raises:
        DataError: an image that cannot be read.
    """
    rows = [row for row, record in enumerate(dataset.records) if (~record.is_ignored).any()] or [0]
    samples = []
    for number in range(settings.batch):
        row = rows[number % len(rows)]
        record = dataset.records[row]
        keep = torch.from_numpy(~record.is_ignored)
        image = dataset.read_image(row)
        boxes, labels = torch.from_numpy(record.boxes)[keep], torch.from_numpy(record.labels)[keep]
        samples.append(_sample(image, boxes, labels, settings, number))
    return _scene(samples, settings, f"the first of {dataset.name}")


def draw_scene(settings: SceneSettings) -> Scene:
    """Draw images of the demo dataset `shapes`. Sizes below 64 pixels are drawn larger and resized."""
    height, width = settings.size or _drawn_size(settings)
    drawn = ShapesDataset(
        num_images=4 * settings.batch,  # some images have no objects
        seed=0,
        height=max(height, SMALLEST_DRAWN),
        width=max(width, SMALLEST_DRAWN),
        problems=ErrorPolicy("raise"),
    )
    scene = read_scene(drawn, settings._replace(size=(height, width)))
    return scene._replace(origin="drawn shapes")


def _drawn_size(settings: SceneSettings) -> tuple[int, int]:
    """The size of an image with the aspect ratio 3:4."""
    return resized_size(3, 4, short_side=settings.short_side, long_side=settings.long_side)


def _sample(image: Tensor, boxes: Tensor, labels: Tensor, settings: SceneSettings, number: int) -> Sample:
    old_size = (image.shape[1], image.shape[2])
    new_size = settings.size or resized_size(*old_size, short_side=settings.short_side, long_side=settings.long_side)
    image, boxes = resize(image, new_size), resize_boxes(boxes, old_size=old_size, new_size=new_size)
    if settings.objects is not None:
        generator = torch.Generator().manual_seed(number)
        boxes = made_up_boxes(settings.objects, new_size, generator)
        labels = torch.randint(settings.num_classes, (settings.objects,), generator=generator) + 1
    return Sample(
        image=image,
        boxes=boxes,
        labels=(labels - 1) % settings.num_classes + 1,
        is_ignored=torch.zeros(len(boxes), dtype=torch.bool),
        original_size=torch.tensor(new_size),
        index=number,
        seed=number,
    )


def made_up_boxes(count: int, size: tuple[int, int], generator: Generator) -> Tensor:
    """(count, 4) boxes inside an image of (height, width), with log-uniform sides."""
    shorter = min(size)
    smallest = min(SMALLEST_BOX, shorter / 4)
    growth = LARGEST_SHARE * shorter / smallest
    sides = smallest * growth ** torch.rand(count, 2, generator=generator)
    corner = torch.rand(count, 2, generator=generator) * (torch.tensor([size[1], size[0]]) - sides)
    return torch.cat([corner, corner + sides], dim=1)


def _scene(samples: Sequence[Sample], settings: SceneSettings, origin: str) -> Scene:
    images = [sample.image.float().contiguous() for sample in samples]
    if settings.channels == "bgr":
        images = [image.flip(0) for image in images]
    targets = [{"boxes": sample.boxes, "labels": sample.labels} for sample in samples]
    return Scene(collate(samples), images, targets, origin)
