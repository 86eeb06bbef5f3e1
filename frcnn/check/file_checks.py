"""Checks of images: their files, their sizes and duplicates."""

from collections.abc import Sequence

import numpy as np

from frcnn.check.box_checks import BoxFaults
from frcnn.check.findings import Example, Finding, Source, about_images
from frcnn.data.formats.columns import labels_of

LOOKS_LIKE = 2.0
"""Maximum mean difference of the thumbnails of two similar images, on the scale 0..255."""
FLAT = 8.0
"""Thumbnails with a smaller standard deviation are not compared."""
MOST_COMPARED = 10_000_000
"""Maximum number of pairs of thumbnails. More would take minutes, so the search for similar images is skipped."""

FAULTS = {
    "unreadable": "annotation-unreadable",
    "no image": "image-unreadable",
    "bad line": "line-unreadable",
    "no size": "image-size-missing",
    "listed twice": "image-listed-twice",
    "file twice": "image-file-annotated-twice",
    "unknown image": "object-without-image",
    "id twice": "annotation-id-twice",
}
"""Kind of finding for each kind of `raw.Fault`. `find_other_classes` reports unknown categories."""


def find_in_annotation(source: Source) -> list[Finding]:
    """Report the faults that the reader of the annotations found."""
    examples: dict[str, list[Example]] = {}
    for fault in source.raw.faults:
        is_of_file = fault.kind == "no image" and source.facts[fault.row] is not None  # `find_in_images` reports it
        if fault.kind in FAULTS and not is_of_file:
            examples.setdefault(FAULTS[fault.kind], []).append(Example(fault.message, fault.row))
    return [Finding(kind, source.split, each, source) for kind, each in examples.items()]


def find_in_images(source: Source) -> list[Finding]:
    """Find files that cannot be read, do not match their annotation, or have an unusual pixel format."""
    facts = {row: each for row, each in enumerate(source.facts) if each is not None}
    findings = []
    for fault in ("missing", "truncated", "unreadable"):
        notes = {row: each.message.split(": ", 1)[-1] for row, each in facts.items() if each.fault == fault}
        findings += about_images(f"image-{fault}", source, notes)
    read = [(row, each) for row, each in facts.items() if not each.fault]
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
        findings += about_images(kind, source, dict.fromkeys(rows, ""))
    return findings


def fits_size(source: Source, row: int) -> bool:
    """Whether an image has the annotated size. True if the size is not annotated or the image was not read."""
    image, facts = source.raw.images[row], source.facts[row]
    if facts is None or facts.fault or np.isnan(image.height + image.width):
        return True
    return (facts.height, facts.width) == (image.height, image.width)


def _find_other_sizes(source: Source) -> list[Finding]:
    turned, other = {}, {}
    for row, (image, facts) in enumerate(zip(source.raw.images, source.facts, strict=True)):
        if facts is None or fits_size(source, row):
            continue
        note = f"{facts.width} x {facts.height} pixels, annotated as {image.width:g} x {image.height:g}"
        if facts.stored_size == (image.height, image.width):
            turned[row] = f"{note}, which is the size before EXIF orientation {facts.orientation}"
        else:
            other[row] = note
    return [*about_images("image-size-turned", source, turned), *about_images("image-size-differs", source, other)]


def find_without_objects(source: Source, faults: BoxFaults, class_names: Sequence[str]) -> list[Finding]:
    """Find images without a usable box of the classes, and sources that consist mostly or only of them."""
    used = source.raw.objects.rows[faults.is_usable & (labels_of(source.raw, class_names) > 0)]
    counts = np.bincount(used[used >= 0], minlength=len(source.raw.images))
    rows = np.flatnonzero(counts == 0).tolist()
    if len(rows) == len(source.raw.images):
        return [Finding("no-objects", source.split, [Example(source.raw.name)], source)]
    findings = about_images("image-without-objects", source, dict.fromkeys(rows, ""))
    if len(rows) > len(counts) / 2:
        text = f"{source.raw.name}: {len(rows)} of {len(counts)} images have no objects"
        findings.append(Finding("mostly-without-objects", source.split, [Example(text)], source))
    return findings


def find_repeated_images(sources: Sequence[Source]) -> list[Finding]:
    """Find images that occur more than once, compared by `identity`.

    An image of val that is also in train is reported for val. Other duplicates are reported for the split that contains
    them twice.
    """
    first: dict[str, dict[object, tuple[Source, int]]] = {"train": {}, "val": {}}
    findings = []
    for source in sources:
        seen, trained = first[source.split], first["train"] if source.split == "val" else {}
        twice, leaked = {}, {}
        for row in range(len(source.raw.images)):
            key = identity(source, row)
            if key is None:
                continue
            if key in trained:
                leaked[row] = _same_as(source, row, *trained[key])
            elif key in seen:
                twice[row] = _same_as(source, row, *seen[key])
            seen.setdefault(key, (source, row))
        findings += about_images("image-in-train-and-val", source, leaked)
        findings += about_images("image-twice", source, twice)
    return findings


def identity(source: Source, row: int) -> object:
    """A key that is equal for duplicates of an image: the hash of its pixels, or its path if it was not read.

    None if the image cannot be read or has a single color.
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
    """Find images of val with different pixels but a similar thumbnail to an image of train."""
    train = [(source, *item) for source in sources if source.split == "train" for item in _thumbnails(source).items()]
    if not train:
        return []
    known = np.stack([thumbnail for _, _, thumbnail in train])
    trained = {identity(source, row) for source, row, _ in train}
    findings: list[Finding] = []
    for source in sources:
        thumbnails = _thumbnails(source) if source.split == "val" else {}
        if len(thumbnails) * len(train) > MOST_COMPARED:
            continue
        notes = {}
        for row, thumbnail in thumbnails.items():
            if identity(source, row) in trained:
                continue
            difference = np.abs(known - thumbnail).mean(axis=1)
            nearest = int(difference.argmin())
            if difference[nearest] <= LOOKS_LIKE:
                other, other_row, _ = train[nearest]
                notes[row] = f"looks like {other.title(other_row)} of train"
        findings += about_images("image-nearly-in-train", source, notes)
    return findings


def _thumbnails(source: Source) -> dict[int, np.ndarray]:
    """The thumbnails with enough contrast to be compared, float32, by row."""
    return {
        row: facts.thumbnail.astype(np.float32)
        for row, facts in enumerate(source.facts)
        if facts is not None and facts.thumbnail is not None and facts.thumbnail.std() >= FLAT
    }
