"""Compute how often each image is drawn in an epoch, so that rare classes are seen more often."""

from collections.abc import Sequence

import numpy as np

from frcnn.annotations import ImageRecord
from frcnn.errors import DataError


def repeat_factors(records: Sequence[ImageRecord], *, num_classes: int, threshold: float) -> list[float]:
    """Repeat-factor sampling (Gupta et al. 2019, LVIS, section 5 and appendix): repeat images of rare classes.

    1. f(c): the share of images with an object of class c.
    2. r(c) = max(1, sqrt(threshold / f(c))).
    3. r(I) = max r(c) over the classes in image I; 1 without objects.

    Args:
        threshold: in (0, 1]; classes that occur in a larger share of the images are not repeated.

    Returns:
        The expected number of draws of each image in an epoch, at least 1. Ignore regions do not count as objects.
    """
    image, label = _image_classes(records)
    share = np.bincount(label, minlength=num_classes + 1) / max(1, len(records))
    class_factor = np.maximum(1, np.sqrt(threshold / np.maximum(share, 1 / max(1, len(records)))))
    factors = np.ones(len(records))
    np.maximum.at(factors, image, class_factor[label])
    return factors.tolist()


def class_balanced_factors(records: Sequence[ImageRecord], *, num_classes: int, name: str) -> list[float]:
    """Class-aware sampling (Shen et al. 2016, Relay Backpropagation): draw a class, then an image with it.

    The C classes that have objects are equally likely, and so are the n(c) images with an object of class c. Image I is
    therefore drawn with probability p(I) = sum over its classes of 1 / (C * n(c)). An epoch has as many draws as there
    are images. An image without objects is never drawn.

    Args:
        name: name of the dataset, for the message.

    Returns:
        len(records) * p(I), the expected number of draws of each image in an epoch.

    Raises:
        DataError: no image has an object.
    """
    image, label = _image_classes(records)
    if not len(image):
        raise DataError(f"{name}: data.sampling class_balanced needs objects, but no image has one")
    count = np.bincount(label, minlength=num_classes + 1)
    factors = np.zeros(len(records))
    np.add.at(factors, image, len(records) / (np.count_nonzero(count) * count[label]))
    return factors.tolist()


def _image_classes(records: Sequence[ImageRecord]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct pairs of image and class: positions in `records` (n,) and labels in 1..K (n,)."""
    labels = [np.unique(record.labels[~record.is_ignored]) for record in records]
    image = np.repeat(np.arange(len(records)), [len(each) for each in labels])
    return image, np.concatenate([*labels, np.zeros(0, dtype=np.int64)])
