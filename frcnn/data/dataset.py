"""What every data set is: class names, one record an image, and a way to read the pixels."""

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


class DetectionDataset(ABC):  # noqa: B024 - abstract in that only its kinds are ever made
    """Annotated images; label k in 1..K is `class_names[k - 1]`, and COCO results call it `category_ids[k - 1]`.

    Annotations are read when the data set is made, pixels when an image is asked for.
    """

    def __init__(
        self,
        *,
        name: str,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        records: Sequence[ImageRecord],
        problems: ErrorPolicy,
        notes: Sequence[str] = (),
    ) -> None:
        """
        Args:
            name: for messages, such as "voc trainval".
            category_ids: one for each class name; a COCO file's own ids, 1..K elsewhere.
            problems: what is done with unusable annotations and images; holds their count.
            notes: lines for the log on usable annotations and images that the config leaves out.

        Raises:
            DataError: no image; no class name, an empty one, or one that is there twice.
        """
        check_class_names(class_names, source=name)
        if not records:
            raise DataError(f"{name}: the data set holds no usable image")
        self.name = name
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.records = records
        self.problems = problems
        self.notes = tuple(notes)
        self.filtered_category_ids: tuple[int, ...] = ()
        """Categories of a COCO file that data.classes does not list."""

    def __len__(self) -> int:
        return len(self.records)

    def read_image(self, index: int) -> Tensor:
        """Pixels of image `index` as (3, H, W) uint8 RGB.

        Raises:
            DataError: the file is missing or broken, or its size is not the annotated one (the boxes would lie wrong).
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
    """Raise DataError unless there is at least one name, none empty, none twice, all of characters to be shown."""
    if not class_names:
        raise DataError(f"{source}: no class names; annotate at least one object or set data.classes")
    if any(not isinstance(name, str) or not name.strip() for name in class_names):
        raise DataError(f"{source}: a class name is empty: {list(class_names)}")
    # Cc and Cs: control characters and halves of pairs, which no terminal or file should be sent.
    odd = next((name for name in class_names if any(category(each) in ("Cc", "Cs") for each in name)), None)
    if odd is not None:
        raise DataError(f"{source}: a class name holds characters that cannot be shown: {shown(odd)}")
    twice = [name for name, count in Counter(class_names).items() if count > 1]
    if twice:
        raise DataError(f"{source}: class names must be unique; more than once: {', '.join(twice)}")


def did_you_mean(name: str, choices: Sequence[str]) -> str:
    """A hint at the choice nearest to a name, for the end of a message; empty where none is near.

    >>> did_you_mean("Persn", ["dog", "person"]), did_you_mean("cat", ["dog"])
    ('; did you mean person?', '')
    """
    by_plain = {each.casefold(): each for each in choices}
    nearest = get_close_matches(name.casefold(), by_plain, 1)
    return f"; did you mean {by_plain[nearest[0]]}?" if nearest else ""


def unused_ids(class_names: Sequence[str]) -> dict[str, int]:
    """The ids in the names of classes that no category has, such as 12 in "N/A 12"."""
    found = [(name, re.fullmatch(r"N/A (\d+)", name)) for name in class_names]
    return {name: int(match[1]) for name, match in found if match}
