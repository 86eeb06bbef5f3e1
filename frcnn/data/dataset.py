"""The contract of datasets: class names, one record per image, and a method that reads the pixels."""

import re
from abc import ABC
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from unicodedata import category

from torch import Tensor

from frcnn.annotations import ImageRecord
from frcnn.data.images import read_image
from frcnn.data.problems import ErrorPolicy
from frcnn.errors import DataError
from frcnn.files.reading import shown


class DetectionDataset(ABC):  # noqa: B024 - abstract although a subclass need not override anything
    """Annotated images. Label k in 1..K stands for `class_names[k - 1]`, in COCO results for `category_ids[k - 1]`.

    Annotations are read when the dataset is created, pixels when an image is requested. A subclass passes its records
    to `__init__`, and overrides `read_image` if its images are not plain files. Loader workers receive a pickled copy.
    """

    def __init__(
        self,
        *,
        name: str,
        class_names: Sequence[str],
        records: Sequence[ImageRecord],
        category_ids: Sequence[int] | None = None,
        problems: ErrorPolicy | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """
        Args:
            name: for messages, such as "voc trainval".
            class_names: K names in label order.
            records: one per image.
            category_ids: one per class name: the ids of a COCO file. None means 1..K.
            problems: decides what happens to unusable annotations and images, and counts them. None raises an error.
            notes: lines for the log about usable annotations and images that the config skips.

        Raises:
            DataError: there is no image or no class name, or a class name is empty or occurs twice.
        """
        check_class_names(class_names, source=name)
        if not records:
            raise DataError(f"{name}: the dataset has no usable image")
        self.name = name
        self.class_names = tuple(class_names)
        self.category_ids = tuple(range(1, len(class_names) + 1) if category_ids is None else category_ids)
        self.records = records
        self.problems = problems or ErrorPolicy()
        self.notes = tuple(notes)
        self.filtered_category_ids: tuple[int, ...] = ()
        """Categories of a COCO file that data.classes does not list."""

    def __len__(self) -> int:
        return len(self.records)

    def read_image(self, index: int) -> Tensor:
        """Pixels of image `index` as (3, H, W) uint8 RGB.

        Raises:
            DataError: the file is missing or broken, or its size differs from the annotated one, so that the boxes
                would not fit.
        """
        record = self.records[index]
        if record.path is None:
            raise ValueError(f"{self.name}: image {record.image_id} has no file")
        image = read_image(record.path)
        height, width = image.shape[1:]
        if (height, width) != (record.height, record.width):
            raise DataError(
                f"{record.path}: the image is {width} x {height} pixels (after its EXIF rotation, if any), but "
                f"annotated as {record.width} x {record.height}; the boxes would not fit"
            )
        return image


def check_class_names(class_names: Sequence[str], *, source: str) -> None:
    """Raise DataError if there is no name, or a name is empty, repeated or has unprintable characters."""
    if not class_names:
        raise DataError(f"{source}: no class names; annotate at least one object or set data.classes")
    if any(not isinstance(name, str) or not name.strip() for name in class_names):
        raise DataError(f"{source}: a class name is empty: {list(class_names)}")
    # Cc and Cs: control characters and unpaired surrogates, which must not reach a terminal or file.
    odd = next((name for name in class_names if any(category(each) in ("Cc", "Cs") for each in name)), None)
    if odd is not None:
        raise DataError(f"{source}: a class name has unprintable characters: {shown(odd)}")
    twice = [name for name, count in Counter(class_names).items() if count > 1]
    if twice:
        raise DataError(f"{source}: class names must be unique; repeated: {', '.join(twice)}")


def did_you_mean(name: str, choices: Sequence[str]) -> str:
    """A hint for the end of a message that names the choice nearest to a name; empty if no choice is near.

    >>> did_you_mean("Persn", ["dog", "person"]), did_you_mean("cat", ["dog"])
    ('; did you mean person?', '')
    """
    by_plain = {each.casefold(): each for each in choices}
    nearest = get_close_matches(name.casefold(), by_plain, 1)
    return f"; did you mean {by_plain[nearest[0]]}?" if nearest else ""


def unused_ids(class_names: Sequence[str]) -> dict[str, int]:
    """Ids of class names that stand for unused categories, such as 12 for "N/A 12"."""
    found = [(name, re.fullmatch(r"N/A (\d+)", name)) for name in class_names]
    return {name: int(match[1]) for name, match in found if match}
