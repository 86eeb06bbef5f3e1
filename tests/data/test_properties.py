"""All annotations are read, in order; invalid ones are refused or counted."""

import json
import random
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from frcnn.data.problems import ErrorPolicy
from frcnn.errors import DataError
from tests.data.sources import coco_dataset, voc_dataset
from tests.fuzz.mutations import VALUES, mutate_tree
from tests.fuzz.readers import COCO, XML

SIDES = st.integers(2, 5000)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12)
CLASSES = st.lists(NAMES, min_size=1, max_size=4, unique=True)
IDS = st.one_of(st.integers(0, 10**9), st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True))


@st.composite
def corners(draw, height, width, *, step=1):
    """x1, y1, x2, y2 of a box with area on a grid of 1 / step pixels."""
    left = draw(st.integers(0, width * step - 1))
    top = draw(st.integers(0, height * step - 1))
    edges = left, top, draw(st.integers(left + 1, width * step)), draw(st.integers(top + 1, height * step))
    return [edge / step for edge in edges]


@st.composite
def annotated(draw, *, ids, step):
    """Class names, and images as (id, height, width, [(label, box, mark)])."""
    names = draw(CLASSES)
    images = []
    for image_id in draw(st.lists(ids, min_size=1, max_size=4, unique_by=str)):
        height, width = draw(SIDES), draw(SIDES)
        objects = st.tuples(st.integers(1, len(names)), corners(height, width, step=step), st.booleans())
        images.append((image_id, height, width, draw(st.lists(objects, max_size=4))))
    return names, images


def check(dataset, names, images):
    assert dataset.class_names == tuple(names) and dataset.problems.count == 0
    assert [record.image_id for record in dataset.records] == [image_id for image_id, *_ in images]
    for record, (_, height, width, objects) in zip(dataset.records, images, strict=True):
        assert (record.height, record.width) == (height, width)
        assert record.labels.tolist() == [label for label, _, _ in objects]
        assert record.boxes.tolist() == [box for _, box, _ in objects]
        assert record.is_ignored.tolist() == [mark for _, _, mark in objects]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    return root


@given(drawn=annotated(ids=IDS.map(str), step=1))
def test_voc(folder, drawn):
    names, images = drawn
    # The far edge of a pixel is its 1-based number; a box of one pixel cannot be written (see AnnotatedDataset).
    assume(all(box[2] - box[0] > 1 and box[3] - box[1] > 1 for *_, objects in images for _, box, _ in objects))
    for image_id, height, width, objects in images:
        body = "".join(
            f"<object><name>{escape(names[label - 1])}</name><difficult>{int(mark)}</difficult><bndbox>"
            f"<ymax>{y2}</ymax><ymin>{y1 + 1}</ymin><xmin>{x1 + 1}</xmin><xmax>{x2}</xmax></bndbox></object>"
            for label, (x1, y1, x2, y2), mark in objects
        )
        size = f"<size><height>{height}</height><width>{width}</width></size>"
        (folder / f"Annotations/{image_id}.xml").write_text(f"<annotation>{size}{body}</annotation>", encoding="utf-8")
    (folder / "ImageSets/Main/all.txt").write_text("\n".join(image_id for image_id, *_ in images))
    check(voc_dataset(folder, split="all", class_names=names), names, images)


@given(drawn=annotated(ids=IDS, step=4), gaps=st.lists(st.integers(1, 9), min_size=4, max_size=4))
def test_coco(folder, drawn, gaps):
    names, images = drawn
    category_ids = np.cumsum(gaps).tolist()[: len(names)]
    document = {
        "images": [
            {"id": image_id, "file_name": f"{image_id}.jpg", "height": height, "width": width}
            for image_id, height, width, _ in images
        ],
        "annotations": [
            {
                "image_id": image_id,
                "category_id": category_ids[label - 1],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "iscrowd": int(mark),
            }
            for image_id, _, _, objects in images
            for label, (x1, y1, x2, y2), mark in objects
        ],
        "categories": [{"id": each, "name": name} for each, name in zip(category_ids, names, strict=True)],
    }
    random.Random(0).shuffle(document["categories"])
    path = folder / "instances.json"
    path.write_text(json.dumps(document))
    dataset = coco_dataset(folder, path)
    check(dataset, names, images)
    assert dataset.category_ids == tuple(category_ids)


def check_policies(make, num_images):
    """With `raise` the first problem is an error. With `skip` each problem is counted, unless nothing remains."""
    try:
        whole = make(ErrorPolicy("raise"))
    except DataError:
        whole = None
    problems = ErrorPolicy("skip")
    try:
        rest = make(problems)
    except DataError:
        assert whole is None
        return
    assert (problems.count == 0) == (whole is not None)
    assert len(rest) <= num_images
    for record in rest.records:
        assert (record.boxes[:, :2] < record.boxes[:, 2:]).all() and (record.boxes >= 0).all()
        assert np.isfinite(record.areas).all()


@given(seed=st.integers(0, 10**9))
def test_an_invalid_coco_file_is_refused_or_its_faults_are_counted(folder, seed):
    document = mutate_tree(random.Random(seed), json.loads(json.dumps(COCO)))
    path = folder / "broken.json"
    path.write_text(json.dumps(document))
    images = document.get("images") if isinstance(document, dict) else None
    check_policies(
        lambda problems: coco_dataset(folder, path, problems=problems),
        len(images) if isinstance(images, list) else 0,
    )


FIELDS = ["60", "40", "cat", "30", "20.5", ">1<", "<size>", "</size>", "<bndbox>", "filename", "object"]
BROKEN = st.one_of(st.text(max_size=20), st.sampled_from(VALUES).map(str), st.floats().map(str), st.integers().map(str))


@given(changes=st.dictionaries(st.sampled_from(FIELDS), BROKEN, min_size=1, max_size=3), is_escaped=st.booleans())
def test_an_invalid_voc_file_is_refused_or_its_faults_are_counted(folder, changes, is_escaped):
    text = XML
    for old, new in changes.items():
        text = text.replace(old, escape(new) if is_escaped else new)
    (folder / "Annotations/whole.xml").write_text(XML)
    (folder / "Annotations/broken.xml").write_bytes(text.encode("utf-8", "surrogatepass"))
    (folder / "ImageSets/Main/broken.txt").write_text("whole\nbroken")
    check_policies(
        lambda problems: voc_dataset(folder, split="broken", problems=problems, class_names=["cat", "dog"]), 2
    )
