import pytest
from torchvision.models._meta import _COCO_CATEGORIES, _VOC_CATEGORIES
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from frcnn.convert.class_rows import COCO_IDS, COCO_NAMES, COCO_OUTPUTS, VOC_NAMES, find_classes
from frcnn.errors import CheckpointError


def test_lists_equal_those_of_torchvision():
    categories = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert categories == _COCO_CATEGORIES and len(categories) == 91
    assert {number: categories[number] for number in COCO_IDS} == dict(zip(COCO_IDS, COCO_NAMES, strict=True))
    assert len(COCO_NAMES) == 80
    for number, (ours, theirs) in enumerate(zip(COCO_OUTPUTS, categories[1:], strict=True), start=1):
        assert ours == (f"N/A {number}" if theirs == "N/A" else theirs)
    assert _VOC_CATEGORIES[1:] == VOC_NAMES


@pytest.mark.parametrize(
    ("count", "dataset", "first", "ids"),
    [(80, "coco", "person", COCO_IDS), (90, "coco", "person", range(1, 91)), (20, "voc", "aeroplane", range(1, 21))],
)
def test_known_numbers_of_classes(count, dataset, first, ids):
    found = find_classes(count, None)
    assert (found.dataset, found.names[0], found.category_ids) == (dataset, first, list(ids))
    assert found.is_assumed and find_classes(count, tuple(found.names)) == found._replace(is_assumed=False)


def test_custom_names():
    assert find_classes(2, ["cat", "dog"]) == (["cat", "dog"], [1, 2], None, False)
    assert find_classes(80, COCO_NAMES[::-1]).category_ids == list(range(1, 81))


@pytest.mark.parametrize(
    ("count", "names", "message"),
    [
        (3, None, "3 classes but no class names: pass --classes"),
        (3, ["a", "b"], "2 class names for a file with 3 classes"),
        (2, ["a", "a"], "duplicate class names: a"),
    ],
)
def test_errors(count, names, message):
    with pytest.raises(CheckpointError, match=message):
        find_classes(count, names)
