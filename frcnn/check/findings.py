"""What a check can find, how bad it is, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from frcnn.check.image_headers import ImageFacts
from frcnn.data.formats.raw import RawAnnotation

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class Kind(NamedTuple):
    """A sort of finding."""

    severity: Severity
    """error: training stops at it, leaves it out, or learns or measures something false; warning: probably a mistake;
    note: good to know."""
    text: str
    """After a number: "3 ..."."""
    advice: str = ""


KINDS: dict[str, Kind] = {
    "annotation-unreadable": Kind("error", "annotation(s) that cannot be read", "mend or delist them"),
    "image-size-missing": Kind("error", "image(s) annotated without a size", "write the size into the annotation"),
    "image-listed-twice": Kind("warning", "image(s) listed twice", "the second entry is never read"),
    "image-file-annotated-twice": Kind("warning", "image file(s) with two entries", "join their objects in one"),
    "object-without-image": Kind("error", "object(s) of an image that is not there"),
    "annotation-id-twice": Kind("warning", "annotation id(s) used twice", "number them anew"),
    "class-unknown": Kind("error", "object(s) of an unknown class", "correct the name, or add it to data.classes"),
    "class-missing": Kind("error", "listed class(es) that the annotations do not declare", "correct data.classes"),
    "class-filtered": Kind("note", "class(es) that data.classes does not list", "their objects are left out"),
    "class-lists-differ": Kind("error", "source(s) with other classes", "set data.classes to those to use"),
    "class-unused": Kind("warning", "class(es) without any object in train", "remove them, or annotate some"),
    "class-only-in-val": Kind("warning", "class(es) in val but never in train", "they cannot be learned"),
    "class-not-in-val": Kind("note", "class(es) never in val", "their precision cannot be measured"),
    "class-rare": Kind("note", "class(es) of fewer than 10 objects in train"),
    "classes-alike": Kind("warning", "pair(s) of class names that may be one", "rename one of each pair if so"),
    "category-gaps": Kind("note", "gap(s) in the category ids", "harmless here: labels are numbered without gaps"),
    "box-no-numbers": Kind("error", "box(es) that are no four numbers"),
    "box-negative": Kind("error", "box(es) of negative width or height", "the corners may be swapped"),
    "box-zero-area": Kind("error", "box(es) without area", "stray clicks: delete them"),
    "box-outside": Kind("error", "box(es) wholly outside their image", "see if they belong to another image"),
    "box-over-border": Kind("warning", "box(es) over the border by more than a pixel", "they are clipped when read"),
    "box-duplicate": Kind("warning", "box(es) that repeat another of the same class", "delete the second"),
    "box-nearly-duplicate": Kind("warning", "pair(s) of boxes of one class with IoU 0.9 or more", "is it one object?"),
    "box-two-classes": Kind("warning", "box(es) that repeat one of another class", "decide which class it is"),
    "box-tiny": Kind("warning", "box(es) with a side of at most 2 pixels", "often stray clicks; look at --pictures"),
    "coordinates": Kind("warning", "source(s) whose coordinates seem to start elsewhere"),
    "image-missing": Kind("error", "image file(s) not found"),
    "image-truncated": Kind("error", "truncated image file(s)", "copy them anew"),
    "image-unreadable": Kind("error", "image file(s) that cannot be read"),
    "image-size-differs": Kind("error", "image(s) of another size than annotated", "the boxes would not fit"),
    "image-size-turned": Kind(
        "error",
        "image(s) annotated in the size before their EXIF rotation",
        "turn the pixels and drop the EXIF tag, or annotate anew",
    ),
    "image-turned": Kind(
        "note", "image(s) that EXIF rotates", "they are turned when read, as their annotation expects"
    ),
    "image-grey": Kind("note", "grey image(s)", "read as RGB"),
    "image-16-bit": Kind("note", "image(s) of 16 bits", "read with 8, the range 0..65535 scaled"),
    "image-palette": Kind("note", "image(s) with a palette", "read as RGB"),
    "image-cmyk": Kind("note", "CMYK image(s)", "read as RGB, without their colour profile"),
    "image-alpha": Kind("note", "image(s) with an alpha channel", "it is dropped"),
    "image-one-colour": Kind("warning", "image(s) of a single colour", "probably a failed export"),
    "image-without-objects": Kind("note", "image(s) without objects", "background, unless data.empty leaves them out"),
    "mostly-without-objects": Kind("warning", "split(s) in which most images have no objects", "is that meant?"),
    "no-objects": Kind("error", "split(s) without any usable object"),
    "image-twice": Kind("warning", "image(s) that are there before under another name"),
    "image-in-train-and-val": Kind("error", "image(s) of val that are in train too", "evaluation would flatter"),
    "image-nearly-in-train": Kind("note", "image(s) of val that look like one of train", "look if they are the same"),
    "anchors-miss": Kind("note", "box(es) in train that no anchor reaches"),
    "anchors-unfit": Kind("warning", "split(s) whose boxes the anchors fit badly", "see the suggested anchors"),
}


@dataclass
class Source:
    """One annotated set of images of a split."""

    split: str
    """"train" or "val"."""
    key: str
    """Where the config has it: data.train, data.train.0 or data.val."""
    raw: RawAnnotation
    facts: list[ImageFacts | None] = field(default_factory=list)
    """Of each image's file; None where it was not read."""

    def title(self, row: int) -> str:
        """How an image is called in messages."""
        image = self.raw.images[row]
        return str(image.path.name if image.path is not None else f"image {image.image_id}")

    def subject(self, number: int) -> str:
        """How an object is called in messages; `number` counts the columns of `raw.objects`."""
        objects = self.raw.objects
        row, name = int(objects.rows[number]), int(objects.names[number])
        where = self.title(row) if row >= 0 else "no image"
        return f"{where}: {self.raw.object_name(number)} ({self.raw.names[name] if name >= 0 else 'unknown category'})"

    def written(self, number: int) -> str:
        """See `RawAnnotation.written`."""
        return self.raw.written(number)


class Example(NamedTuple):
    """One case of a finding."""

    text: str
    row: int = -1
    """Position of the image in its source, -1 where it is about none."""
    objects: tuple[int, ...] = ()
    """Columns of `raw.objects`."""


@dataclass
class Finding:
    """All cases of a kind in one source, or in the data set as a whole."""

    kind: str
    split: str
    examples: list[Example]
    source: Source | None = None

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    @property
    def text(self) -> str:
        return f"{len(self.examples)} {KINDS[self.kind].text}"


def about_objects(kind: str, source: Source, numbers: np.ndarray, *, notes: Sequence[str] = ()) -> list[Finding]:
    """A finding about objects of a source, by their columns; none where there are none.

    Args:
        notes: a text for each object instead of the numbers of its box.
    """
    examples = []
    for place, number in enumerate(numbers.tolist()):
        note = notes[place] if len(notes) else source.written(number)
        examples.append(Example(f"{source.subject(number)}: {note}", int(source.raw.objects.rows[number]), (number,)))
    return [Finding(kind, source.split, examples, source)] if examples else []


def about_images(kind: str, source: Source, rows: Sequence[int], *, notes: Sequence[str] = ()) -> list[Finding]:
    """A finding about images of a source, by their rows; none where there are none."""
    examples = [
        Example(source.title(row) + (f": {notes[place]}" if len(notes) else ""), row) for place, row in enumerate(rows)
    ]
    return [Finding(kind, source.split, examples, source)] if examples else []
