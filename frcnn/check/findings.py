"""Kinds of findings with their severity and advice, and the annotated sources that they are about."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from frcnn.check.image_facts import ImageFacts
from frcnn.data.formats.raw import RawAnnotation

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class Kind(NamedTuple):
    """A kind of finding."""

    severity: Severity
    """error: training stops, skips data, or learns or measures something wrong. warning: probably a mistake.
    note: information."""
    text: str
    """Follows a number. A plural ending is in parentheses: "box(es) without area"."""
    advice: str = ""
    """What to do, or the consequence."""


KINDS: dict[str, Kind] = {
    "annotation-unreadable": Kind(
        "error", "annotation(s) that cannot be read", "correct them or remove them from the list"
    ),
    "image-size-missing": Kind("error", "image(s) annotated without a size", "add the size to the annotation"),
    "image-listed-twice": Kind("warning", "image(s) listed twice", "the second entry is ignored"),
    "image-file-annotated-twice": Kind("warning", "image file(s) with two entries", "merge their objects into one"),
    "object-without-image": Kind("error", "object(s) of images that do not exist"),
    "annotation-id-twice": Kind("warning", "duplicate annotation id(s)", "assign new ids"),
    "line-unreadable": Kind("error", "line(s) that cannot be read", "correct or delete them"),
    "class-unknown": Kind("error", "object(s) of unknown classes", "correct the names or add them to data.classes"),
    "class-missing": Kind("error", "class(es) of data.classes not declared in the annotations", "correct data.classes"),
    "class-filtered": Kind("note", "class(es) not listed in data.classes", "their objects are skipped"),
    "class-lists-differ": Kind("error", "source(s) with different classes", "set data.classes to the names to use"),
    "class-unused": Kind("warning", "class(es) without objects", "remove them or annotate some"),
    "class-only-in-val": Kind("warning", "class(es) in val but not in train", "the detector cannot learn them"),
    "class-not-in-val": Kind("note", "class(es) in train but not in val", "their precision cannot be measured"),
    "class-rare": Kind("note", "class(es) with fewer than 10 objects in train"),
    "classes-alike": Kind("warning", "pair(s) of similar class names", "if they are one class, rename one of them"),
    "category-gaps": Kind("note", "source(s) with gaps in the category ids", "harmless: labels have no gaps"),
    "box-no-numbers": Kind("error", "box(es) without four finite numbers", "correct or delete them"),
    "box-negative": Kind("error", "box(es) with negative width or height", "the corners may be swapped"),
    "box-zero-area": Kind("error", "box(es) without area", "often stray clicks; delete them"),
    "box-outside": Kind("error", "box(es) without area inside the image", "they may belong to another image"),
    "box-over-border": Kind("warning", "box(es) over the border by more than a pixel", "they are clipped"),
    "box-duplicate": Kind("warning", "box(es) identical to another of the same class", "delete one of each pair"),
    "box-nearly-duplicate": Kind(
        "warning",
        "pair(s) of boxes of one class with IoU 0.9 or more",
        "if they show the same object, delete one of each pair",
    ),
    "box-two-classes": Kind("warning", "box(es) identical to one of another class", "keep the correct class"),
    "box-tiny": Kind("warning", "box(es) with a side of at most 2 pixels", "often stray clicks; see --pictures"),
    "coordinates": Kind("warning", "source(s) whose coordinates may follow another convention"),
    "image-missing": Kind("error", "image file(s) not found"),
    "image-truncated": Kind("error", "truncated image file(s)", "copy them again"),
    "image-unreadable": Kind("error", "image file(s) that cannot be read"),
    "image-size-differs": Kind("error", "image(s) whose size differs from the annotation", "the boxes do not fit"),
    "image-size-turned": Kind(
        "error",
        "image(s) annotated with the size before EXIF rotation",
        "rotate the pixels and remove the EXIF tag, or annotate them again",
    ),
    "image-turned": Kind("note", "image(s) with EXIF rotation", "they are rotated when read, as annotated"),
    "image-grey": Kind("note", "gray image(s)", "read as RGB"),
    "image-16-bit": Kind("note", "16-bit image(s)", "read with 8 bits, the range 0..65535 scaled to 0..255"),
    "image-palette": Kind("note", "image(s) with a palette", "read as RGB"),
    "image-cmyk": Kind("note", "CMYK image(s)", "read as RGB without their color profile"),
    "image-alpha": Kind("note", "image(s) with an alpha channel", "the channel is dropped"),
    "image-one-colour": Kind("warning", "image(s) of a single color", "probably a failed export"),
    "image-without-objects": Kind("note", "image(s) without objects", "background, unless data.empty drops them"),
    "mostly-without-objects": Kind(
        "warning", "source(s) in which most images have no objects", "check that this is intended"
    ),
    "no-objects": Kind("error", "source(s) without a usable object"),
    "image-twice": Kind("warning", "image(s) with the same content as an earlier one"),
    "image-in-train-and-val": Kind("error", "image(s) of val that are also in train", "metrics will be too high"),
    "image-nearly-in-train": Kind("note", "image(s) of val similar to one in train", "check whether they are the same"),
    "anchors-miss": Kind("note", "box(es) in train without an anchor with IoU >= rpn.iou_negative"),
    "anchors-unfit": Kind("warning", "split(s) whose boxes the anchors do not fit", "use the suggested anchors"),
}


@dataclass
class Source:
    """One annotated set of images in a split."""

    split: str
    """"train" or "val"."""
    key: str
    """Config key: data.train, data.train.0 or data.val."""
    raw: RawAnnotation
    facts: list[ImageFacts | None] = field(default_factory=list)
    """Facts about each image file. None if it was not read."""

    def title(self, row: int) -> str:
        """Name of an image in messages."""
        image = self.raw.images[row]
        return str(image.path.name if image.path is not None else f"image {image.image_id}")

    def subject(self, number: int) -> str:
        """Name of an object in messages. `number` is a column of `raw.objects`.

        It starts with the image, or with the label file if each image has one and the object is a line in it.
        """
        row = int(self.raw.objects.rows[number])
        if row < 0:
            return f"no image: {self.short_subject(number)}"
        file = self.raw.images[row].annotation
        is_of_file = self.raw.object_word == "line" and file is not None and file != self.raw.origin
        return f"{file.name if file and is_of_file else self.title(row)}: {self.short_subject(number)}"

    def short_subject(self, number: int) -> str:
        """Name of an object without its image."""
        name = int(self.raw.objects.names[number])
        return f"{self.raw.object_name(number)} ({self.raw.names[name] if name >= 0 else 'unknown category'})"


class Example(NamedTuple):
    """One case of a finding."""

    text: str
    row: int = -1
    """Position of the image in its source, or -1."""
    objects: tuple[int, ...] = ()
    """Columns of `raw.objects`."""


@dataclass
class Finding:
    """All cases of a kind in one source or in the whole data."""

    kind: str
    split: str
    examples: list[Example]
    source: Source | None = None

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    @property
    def text(self) -> str:
        count = len(self.examples)
        return f"{count} " + re.sub(r"\((e?s)\)", "" if count == 1 else r"\1", KINDS[self.kind].text)


def findings_of(kind: str, split: str, examples: Sequence[Example], source: Source | None = None) -> list[Finding]:
    """A list with one finding, or an empty list without examples."""
    return [Finding(kind, split, list(examples), source)] if examples else []


def about_objects(kind: str, source: Source, notes: Mapping[int, str]) -> list[Finding]:
    """A list with one finding about objects of a source, or an empty list without notes.

    Args:
        notes: a text for each affected column of `raw.objects`.
    """
    rows = source.raw.objects.rows
    examples = [
        Example(f"{source.subject(number)}: {note}", int(rows[number]), (number,)) for number, note in notes.items()
    ]
    return findings_of(kind, source.split, examples, source)


def about_images(kind: str, source: Source, notes: Mapping[int, str]) -> list[Finding]:
    """A list with one finding about images of a source, or an empty list without notes.

    Args:
        notes: a text, which may be empty, for the row of each affected image.
    """
    examples = [Example(source.title(row) + (f": {note}" if note else ""), row) for row, note in notes.items()]
    return findings_of(kind, source.split, examples, source)
