"""Several datasets as one, such as VOC 2007 and 2012."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor

from frcnn.data.dataset import DetectionDataset
from frcnn.errors import DataError


class ConcatDataset(DetectionDataset):
    """The images of several datasets, one dataset after the other.

    All parts have the same class names in the same order. The category ids and the error policy are those of the first
    part; the parts of one split share the policy.
    """

    def __init__(self, parts: Sequence[DetectionDataset]) -> None:
        first = parts[0]
        for part in parts[1:]:
            if part.class_names != first.class_names:
                raise DataError(
                    f"{part.name} and {first.name} cannot be joined, because their classes differ: "
                    f"{', '.join(part.class_names)} / {', '.join(first.class_names)}; set data.classes"
                )
        super().__init__(
            name=" + ".join(part.name for part in parts),
            class_names=first.class_names,
            category_ids=first.category_ids,
            records=[record for part in parts for record in part.records],
            problems=first.problems,
            notes=[note for part in parts for note in part.notes],
        )
        self.parts = tuple(parts)
        self.starts = list(accumulate((len(part) for part in parts[:-1]), initial=0))

    def read_image(self, index: int) -> Tensor:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self.starts, index) - 1
        return self.parts[part].read_image(index - self.starts[part])
