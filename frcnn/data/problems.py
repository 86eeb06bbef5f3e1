"""The policy for unusable images and annotations: raise an error, or warn once, skip and count them."""

import logging
from typing import Literal

from frcnn.errors import DataError

logger = logging.getLogger("frcnn.data")


class ErrorPolicy:
    """`data.on_error` as an object. Every problem of a dataset is reported to its policy.

    Problems are reported in the main process only: those of a loader worker are passed on with its batch (see
    `loader`). The count is therefore complete for any number of workers and any start method. A problem is identified
    by its message, which names the file and the object, so an image that fails again in the next epoch counts once.
    """

    def __init__(self, on_error: Literal["raise", "skip"] = "raise", *, name: str = "data") -> None:
        self.on_error = on_error
        self.name = name
        self._seen: set[str] = set()

    @property
    def count(self) -> int:
        """Number of different problems so far."""
        return len(self._seen)

    def report(self, message: str) -> None:
        """Raise DataError (`raise`), or log the message when it first occurs, and count it (`skip`)."""
        if self.on_error == "raise":
            raise DataError(f"{message} (data.on_error=skip skips such cases)")
        if message not in self._seen:
            self._seen.add(message)
            logger.warning("skipped: %s", message)

    def summary(self) -> str:
        """One line for the end of a run; empty if nothing was skipped."""
        if not self.count:
            return ""
        return f"{self.name}: skipped {self.count} unusable image(s) or annotation(s)"
