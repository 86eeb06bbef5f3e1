"""The files of `frcnn predict`, written image by image, so that an interrupted run can be continued."""

import hashlib
import json
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, NamedTuple

from frcnn.errors import UserError
from frcnn.files.reading import read_json
from frcnn.files.writing import explaining, replacing, write_json


class Earlier(NamedTuple):
    """The results of an earlier run."""

    finished: Set[Path] = frozenset()
    """Finished images, resolved."""
    num_objects: int = 0
    """Number of detections in the finished images."""
    pictures: Set[Path] = frozenset()
    """Their annotated images, resolved, which are not input images."""


class PredictionFiles:
    """The result files in one folder.

    predictions.jsonl has one line for each image, written as soon as the image is predicted and drawn. predictions.json
    is the list of the same entries, written at the end. predict.json holds the settings that `--resume` compares.
    """

    def __init__(self, folder: Path) -> None:
        self.lines = folder / "predictions.jsonl"
        self.list = folder / "predictions.json"
        self.settings = folder / "predict.json"

    def exist(self) -> bool:
        return self.lines.is_file() and self.lines.stat().st_size > 0

    def refuse_foreign(self) -> None:
        """Raise UserError if there are files of the same names that `frcnn predict` did not write."""
        names = [path.name for path in (self.list, self.settings) if path.exists()]
        if names and not self.lines.exists():
            raise UserError(
                f"{self.lines.parent}: holds {' and '.join(names)}, but no {self.lines.name}. Move the file away, "
                "replace it with --overwrite, or choose another folder with --out"
            )

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Raise UserError if the earlier run had other settings."""
        try:
            earlier = read_json(self.settings, error=UserError)
        except OSError as error:
            raise UserError(f"{self.settings}: cannot be read: {error.strerror}. Use --overwrite") from None
        earlier = earlier if isinstance(earlier, dict) else {}
        for name, value in settings.items():
            if earlier.get(name) != value:
                raise UserError(
                    f"{self.lines}: made with {name} {earlier.get(name)}, not {value}. Use the same settings, "
                    "--overwrite, or another folder with --out"
                )

    def read(self) -> Earlier:
        """Read the results of an earlier run.

        Raises:
            UserError: a line was not written by `frcnn predict`.
        """
        finished, pictures, num_objects = set(), set(), 0
        for entry in self._entries():
            finished.add(Path(entry["path"]).resolve())
            pictures.add(Path(entry["picture"]).resolve())
            num_objects += len(entry["detections"])
        return Earlier(finished, num_objects, pictures)

    def begin(self, settings: dict[str, Any], *, is_resumed: bool) -> None:
        """Prepare the files for `add`: empty, or with the complete lines of the resumed run.

        The settings are written last, so that they never describe the lines of another run.
        """
        with explaining(self.list):
            self.list.unlink(missing_ok=True)
        with explaining(self.lines), replacing(self.lines) as file:
            for entry in self._entries() if is_resumed else ():
                file.write((json.dumps(entry) + "\n").encode())
        write_json(self.settings, settings)

    def add(self, entry: dict[str, Any]) -> None:
        """Append the line of one image and close the file, so that it is not lost if the program is killed."""
        with explaining(self.lines), open(self.lines, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")

    def write_list(self) -> None:
        """Write predictions.json from the lines, atomically."""
        with explaining(self.list), replacing(self.list) as target, open(self.lines, "rb") as lines:
            before = b"[\n"
            for line in lines:
                target.write(before + line.rstrip(b"\n"))
                before = b",\n"
            target.write(b"\n]\n")

    def _entries(self) -> Iterator[dict[str, Any]]:
        """The complete lines; an incomplete last line is skipped."""
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
                        f"{self.lines}, line {number}: not a prediction. Remove the file, or choose another "
                        "folder with --out"
                    )
                yield entry


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
