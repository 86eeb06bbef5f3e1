"""What happens when an image or an annotation cannot be used: stop, or warn once, leave it out and count it."""

import logging
from typing import Literal

from frcnn.errors import DataError

logger = logging.getLogger("frcnn.data")


class ErrorPolicy:
    """`data.on_error` as an object; each data set has one and every problem found in it is reported here.

    Reports are made in the main process only: what a loader worker runs into travels with its batch (`loader`), so
    the count is whole, whatever the number of workers and however they are started. A problem is known by its
    message, which names the file and the object; the same image failing again in the next epoch is not counted twice.
    """

    def __init__(self, on_error: Literal["raise", "skip"] = "raise", *, name: str = "data") -> None:
        self.on_error = on_error
        self.name = name
        self._seen: set[str] = set()

    @property
    def count(self) -> int:
        """Different problems so far."""
        return len(self._seen)

    def report(self, message: str) -> None:
        """Raise DataError under `raise`; under `skip` log the message at its first appearance and count it."""
        if self.on_error == "raise":
            raise DataError(f"{message} (data.on_error=skip leaves such cases out)")
        if message not in self._seen:
            self._seen.add(message)
            logger.warning("left out: %s", message)

    def summary(self) -> str:
        """One line for the end of a run; empty where nothing was left out."""
        if not self.count:
            return ""
        return f"{self.name}: left out {self.count} unusable image(s) or annotation(s)"
