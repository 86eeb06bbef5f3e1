"""The results of `frcnn predict`, written image by image, so that an interrupted run can be continued."""

import hashlib
import json
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, NamedTuple

from frcnn.errors import UserError
from frcnn.files.output import explaining, write_json
from frcnn.files.reading import read_json
from frcnn.files.writing import replacing


class Earlier(NamedTuple):
    """What an earlier run left."""

    finished: Set[Path] = frozenset()
    """Images that need not be predicted again, resolved."""
    num_objects: int = 0
    """Detections in these."""
    pictures: Set[Path] = frozenset()
    """Their annotated pictures, resolved. They are not images to predict on."""


class Predictions:
    """The files of one folder of results.

    predictions.jsonl has one line for each image, written as soon as the image is predicted and drawn. predictions.json
    is the list of the same entries, written at the end. predict.json holds the settings that `--resume` compares.
    """

    def __init__(self, folder: Path) -> None:
        self.lines = folder / "predictions.jsonl"
        self.list = folder / "predictions.json"
        self.settings = folder / "predict.json"

    def exist(self) -> bool:
        return self.lines.is_file() and self.lines.stat().st_size > 0

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Raise UserError where the earlier run was made with other settings."""
        try:
            earlier = read_json(self.settings, error=UserError)
        except OSError as error:
            raise UserError(f"{self.settings}: cannot be read: {error.strerror}; use --overwrite") from None
        earlier = earlier if isinstance(earlier, dict) else {}
        for name, value in settings.items():
            if earlier.get(name) != value:
                raise UserError(
                    f"{self.lines}: made with {name} {earlier.get(name)}, not {value}; use the same settings, "
                    "--overwrite, or another folder by --out"
                )

    def read(self) -> Earlier:
        """What an earlier run left.

        Raises:
            UserError: a line that `frcnn predict` did not write.
        """
        finished, pictures, num_objects = set(), set(), 0
        for entry in self._entries():
            finished.add(Path(entry["path"]).resolve())
            pictures.add(Path(entry["picture"]).resolve())
            num_objects += len(entry["detections"])
        return Earlier(finished, num_objects, pictures)

    def begin(self, settings: dict[str, Any], *, is_resumed: bool) -> None:
        """Make the files ready for `add`: without lines, or with the complete ones of the run that is resumed."""
        write_json(self.settings, settings)
        with explaining(self.list):
            self.list.unlink(missing_ok=True)
        with explaining(self.lines), replacing(self.lines) as file:
            for entry in self._entries() if is_resumed else ():
                file.write((json.dumps(entry) + "\n").encode())

    def add(self, entry: dict[str, Any]) -> None:
        """Write the line of one image, and hand it to the operating system at once."""
        with explaining(self.lines), open(self.lines, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")

    def write_list(self) -> None:
        """Write predictions.json from the lines, whole or not at all."""
        with explaining(self.list), replacing(self.list) as target, open(self.lines, "rb") as lines:
            before = b"[\n"
            for line in lines:
                target.write(before + line.rstrip(b"\n"))
                before = b",\n"
            target.write(b"\n]\n")

    def _entries(self) -> Iterator[dict[str, Any]]:
        """The complete lines; a last one that was cut off is left out."""
        with open(self.lines, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    entry = json.loads(line)
                    is_known = all(isinstance(entry[key], str) for key in ("path", "picture"))
                    is_known = is_known and isinstance(entry["detections"], list)
                except (ValueError, TypeError, KeyError, RecursionError):
                    is_known = False
                if not is_known:
                    raise UserError(
                        f"{self.lines}, line {number}: not a prediction; remove the file, or choose another --out"
                    )
                yield entry


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
