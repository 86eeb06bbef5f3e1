"""How often each image is drawn in an epoch, where rare classes are to be seen more often."""

from collections.abc import Sequence

import numpy as np

from frcnn.annotations import ImageRecord
from frcnn.errors import DataError


def repeat_factors(records: Sequence[ImageRecord], *, num_classes: int, threshold: float) -> list[float]:
    """Repeat-factor sampling (Gupta et al. 2019, LVIS, section 5 and appendix): images of rare classes come again.

    1. f(c): the share of images that hold an object of class c.
    2. r(c) = max(1, sqrt(threshold / f(c))).
    3. r(I) = max r(c) over the classes in image I; 1 where there is no object.

    Args:
        threshold: in (0, 1]; classes in a larger share of the images are not repeated.

    Returns:
        the expected number of times each image is drawn in an epoch, at least 1. Ignore regions are no objects.
    """
    image, label = _image_classes(records)
    share = np.bincount(label, minlength=num_classes + 1) / max(1, len(records))
    class_factor = np.maximum(1, np.sqrt(threshold / np.maximum(share, 1 / max(1, len(records)))))
    factors = np.ones(len(records))
    np.maximum.at(factors, image, class_factor[label])
    return factors.tolist()


def class_balanced_factors(records: Sequence[ImageRecord], *, num_classes: int, name: str) -> list[float]:
    """Class-aware sampling (Shen et al. 2016, Relay Backpropagation): a class, then an image that holds it.

    Each of the C classes that have objects is as likely as any other, and so is each of the n(c) images that hold
    one. Image I is therefore drawn with the probability p(I) = sum over its classes of 1 / (C * n(c)). An epoch has as
    many draws as there are images. An image without an object is never drawn.

    Args:
        name: of the data set, for the message.

    Returns:
        len(records) * p(I), the expected number of times each image is drawn in an epoch.

    Raises:
        DataError: no image holds an object.
    """
    image, label = _image_classes(records)
    if not len(image):
        raise DataError(f"{name}: data.sampling class_balanced needs objects, but no image holds one")
    count = np.bincount(label, minlength=num_classes + 1)
    factors = np.zeros(len(records))
    np.add.at(factors, image, len(records) / (np.count_nonzero(count) * count[label]))
    return factors.tolist()


def _image_classes(records: Sequence[ImageRecord]) -> tuple[np.ndarray, np.ndarray]:
    """Each pair (image, class of an object in it) once: positions in `records` (n,) and labels in 1..K (n,)."""
    labels = [np.unique(record.labels[~record.is_ignored]) for record in records]
    image = np.repeat(np.arange(len(records)), [len(each) for each in labels])
    return image, np.concatenate([*labels, np.zeros(0, dtype=np.int64)])
