"""What can be wrong with images: their files, their sizes, and the same image more than once."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from frcnn.check.box_checks import BoxFaults
from frcnn.check.class_checks import labels_of
from frcnn.check.findings import Example, Finding, Source, about_images

LOOKS_LIKE = 2.0
"""Mean difference of two thumbnails, in 0..255, up to which they are called alike."""
FLAT = 8.0
"""Thumbnails of a smaller standard deviation hold too little to be compared."""
MOST_COMPARED = 10_000_000
"""Pairs of thumbnails, beyond which looking for images that are alike would take minutes."""

FAULTS = {
    "unreadable": "annotation-unreadable",
    "no size": "image-size-missing",
    "listed twice": "image-listed-twice",
    "file twice": "image-file-annotated-twice",
    "unknown image": "object-without-image",
    "unknown category": "class-unknown",
    "id twice": "annotation-id-twice",
}
"""Kind of finding for each kind of `raw.Fault`; objects of unknown categories are found with their class."""


def find_in_annotation(source: Source) -> list[Finding]:
    """Faults met while the annotation was read."""
    findings: dict[str, Finding] = {}
    for fault in source.raw.faults:
        if fault.kind != "unknown category":
            kind = FAULTS[fault.kind]
            finding = findings.setdefault(kind, Finding(kind, source.split, [], source))
            finding.examples.append(Example(fault.message, fault.row))
    return list(findings.values())


def find_in_images(source: Source) -> list[Finding]:
    """Files that cannot be read, do not fit their annotation, or are of an unusual kind."""
    facts = list(enumerate(source.facts))
    findings = []
    for fault in ("missing", "truncated", "unreadable"):
        found = [(row, each.message) for row, each in facts if each is not None and each.fault == fault]
        findings += about_images(
            f"image-{fault}",
            source,
            [row for row, _ in found],
            notes=[message.split(": ", 1)[-1] for _, message in found],
        )
    read = [(row, each) for row, each in facts if each is not None and not each.fault]
    findings += _find_other_sizes(source)
    for kind, rows in {
        "image-turned": [row for row, each in read if each.orientation != 1 and fits_size(source, row)],
        "image-grey": [row for row, each in read if each.mode in ("1", "L", "LA", "La")],
        "image-16-bit": [row for row, each in read if each.is_16_bit],
        "image-palette": [row for row, each in read if each.mode in ("P", "PA")],
        "image-cmyk": [row for row, each in read if each.mode in ("CMYK", "YCCK")],
        "image-alpha": [row for row, each in read if each.mode in ("RGBA", "LA", "PA", "RGBa", "La")],
        "image-one-colour": [row for row, each in read if each.has_one_colour],
    }.items():
        findings += about_images(kind, source, rows)
    return findings


def fits_size(source: Source, row: int) -> bool:
    """Whether an image that was read is of the annotated size; True where none is annotated."""
    image, facts = source.raw.images[row], source.facts[row]
    if facts is None or facts.fault or np.isnan(image.height + image.width):
        return True
    return (facts.height, facts.width) == (image.height, image.width)


def _find_other_sizes(source: Source) -> list[Finding]:
    turned, other = [], []
    for row, (image, facts) in enumerate(zip(source.raw.images, source.facts, strict=True)):
        if facts is None or fits_size(source, row):
            continue
        is_stored_size = facts.stored_size == (image.height, image.width)
        note = f"{facts.width} x {facts.height} pixels, annotated as {image.width:g} x {image.height:g}"
        if is_stored_size:
            note += f", which is the size before EXIF orientation {facts.orientation}"
        (turned if is_stored_size else other).append((row, note))
    findings = []
    for kind, found in (("image-size-turned", turned), ("image-size-differs", other)):
        findings += about_images(kind, source, [row for row, _ in found], notes=[note for _, note in found])
    return findings


def find_without_objects(source: Source, faults: BoxFaults, class_names: Sequence[str]) -> list[Finding]:
    """Images in which no box of a class that is trained on can be used, and splits that consist of them."""
    used = source.raw.objects.rows[faults.is_usable & (labels_of(source, class_names) > 0)]
    counts = np.bincount(used[used >= 0], minlength=len(source.raw.images))
    rows = np.flatnonzero(counts == 0).tolist()
    if len(rows) == len(source.raw.images):
        return [Finding("no-objects", source.split, [Example(source.raw.name)], source)]
    findings = about_images("image-without-objects", source, rows)
    if len(rows) > len(counts) / 2:
        text = f"{source.raw.name}: {len(rows)} of {len(counts)} images have no objects"
        findings.append(Finding("mostly-without-objects", source.split, [Example(text)], source))
    return findings


def find_repeated_images(sources: Sequence[Source]) -> list[Finding]:
    """Images that are there more than once, by their decoded pixels (or their path where they were not read).

    Those of val that are in train too are told for val; others for the split that repeats them.
    """
    first: dict[str, dict[object, tuple[Source, int]]] = {"train": {}, "val": {}}
    findings = []
    for source in sources:
        seen, trained = first[source.split], first["train"] if source.split == "val" else {}
        twice, leaked = [], []
        for row in range(len(source.raw.images)):
            key = identity(source, row)
            if key is None:
                continue
            if key in trained:
                leaked.append((row, _same_as(source, row, *trained[key])))
            elif key in seen:
                twice.append((row, _same_as(source, row, *seen[key])))
            seen.setdefault(key, (source, row))
        for kind, found in (("image-in-train-and-val", leaked), ("image-twice", twice)):
            findings += about_images(kind, source, [row for row, _ in found], notes=[note for _, note in found])
    return findings


def identity(source: Source, row: int) -> object:
    """What two entries of one image share: the decoded pixels, or the path where the file was not read.

    None where the image cannot be read or is of one colour, which says nothing.
    """
    facts, path = source.facts[row], source.raw.images[row].path
    if facts is not None:
        return None if facts.fault or facts.has_one_colour else facts.pixel_hash
    return path.resolve() if path is not None else None


def _same_as(source: Source, row: int, other: Source, other_row: int) -> str:
    mine, theirs = source.facts[row], other.facts[other_row]
    is_same_file = mine is None or theirs is None or mine.file_hash == theirs.file_hash
    what = "the same file as" if is_same_file else "the same pixels as"
    return f"{what} {other.title(other_row)} of {other.split}"


def find_lookalikes(sources: Sequence[Source]) -> list[Finding]:
    """Images of val whose small grey picture is nearly one of train's, though their pixels are not the same."""
    train = [(source, row) for source in sources if source.split == "train" for row in _comparable(source)]
    findings: list[Finding] = []
    for source in sources:
        rows = _comparable(source) if source.split == "val" else []
        if not rows or not train or len(rows) * len(train) > MOST_COMPARED:
            continue
        known = np.stack([_thumbnail(*each) for each in train])
        hashes = Counter(_hash(*each) for each in train)
        found = []
        for row in rows:
            if _hash(source, row) in hashes:
                continue
            difference = np.abs(known - _thumbnail(source, row)).mean(axis=1)
            nearest = int(difference.argmin())
            if difference[nearest] <= LOOKS_LIKE:
                other, other_row = train[nearest]
                found.append((row, f"looks like {other.title(other_row)} of train"))
        notes = [note for _, note in found]
        findings += about_images("image-nearly-in-train", source, [row for row, _ in found], notes=notes)
    return findings


def _comparable(source: Source) -> list[int]:
    return [
        row
        for row, facts in enumerate(source.facts)
        if facts is not None and facts.thumbnail is not None and facts.thumbnail.std() >= FLAT
    ]


def _thumbnail(source: Source, row: int) -> np.ndarray:
    facts = source.facts[row]
    assert facts is not None and facts.thumbnail is not None
    return facts.thumbnail.astype(np.float32)


def _hash(source: Source, row: int) -> bytes:
    facts = source.facts[row]
    return b"" if facts is None else facts.pixel_hash
