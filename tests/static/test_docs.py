"""The documentation: all links resolve, and the reference of keys matches the schema."""

import re
from pathlib import Path

import pytest

from frcnn.config import markdown_reference
from frcnn.config.reference import all_keys

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "data" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = ROOT / "docs" / "config_keys.md"

CODE = re.compile(r"^```.*?^```|^ {4}.*$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *#*$", re.MULTILINE)


def links_of(text: str) -> list[str]:
    """Targets of links outside code."""
    return LINK.findall(CODE.sub("", text))


def anchors_of(text: str) -> set[str]:
    """Anchors that GitHub and mkdocs make of headings, and those of `<a id>`."""
    headings = HEADING.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


def broken_links(page: Path) -> list[str]:
    """Relative links of a page to a file or heading that does not exist."""
    broken = []
    for link in links_of(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists():
            broken.append(f"{link}: no such file")
        elif anchor and anchor not in anchors_of(target.read_text(encoding="utf-8")):
            broken.append(f"{link}: no such heading")
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    assert broken_links(page) == []


def test_the_checker_finds_broken_links(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One *two*: `three`\n[a](#one-two-three) [b](#four) [c](gone.md) [d](page.md#five) `[e](f.md)`\n")
    assert broken_links(page) == ["#four: no such heading", "gone.md: no such file", "page.md#five: no such heading"]


def test_every_page_is_linked_from_the_readme():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links_of((ROOT / "README.md").read_text())}
    assert [page.name for page in PAGES if page.parent.name == "docs" and page not in linked] == []


def test_the_reference_of_keys_is_up_to_date():
    is_up_to_date = REFERENCE.read_text(encoding="utf-8") == markdown_reference()
    assert is_up_to_date, "run: frcnn schema --markdown --out docs/config_keys.md"


def test_every_key_has_a_meaning():
    keys = all_keys()
    assert len(keys) > 120
    assert [key.name for key in keys if not key.meaning.endswith(".")] == []


def test_anchors_of_the_reference_are_unique():
    anchors = [key.anchor for key in all_keys()]
    assert "data.train.images-coco" in anchors and len(set(anchors)) == len(anchors)


def test_the_reference_says_type_default_and_choices():
    rows = {key.name: key for key in all_keys()}
    assert rows["train.lr"][1:3] == ("number > 0", "`0.001`")
    assert rows["train.optimizer"].type == "sgd or adamw"
    assert rows["train.epochs"][1:3] == ("integer > 0, or null", "`null`")
    assert rows["model.rpn.pre_nms_top_n.train"].default == "`12000`"
    assert rows["model.rpn.post_nms_top_n_per_level.train"].default == "required"
    assert rows["model.roi.pooling.size"].default == "`7`"
    assert rows["data.mean"][1:3] == ("list of 3 numbers", "`[123.675, 116.28, 103.53]`")
    assert rows["data.short_side"].type == "integer > 0, or list of integers > 0"
    assert rows["model.anchors.sizes"].type == "list of lists of numbers > 0, or list of numbers > 0"
    assert rows["train.compile"].type == "true, false, or reduce-overhead"
    assert rows["data.flip"].type == "number from 0 to 1"


def test_keys_that_reproduce_other_implementations_stand_apart():
    user, _, peers = markdown_reference().partition("## Keys that reproduce other implementations")
    for key in all_keys():
        link = f'<a id="{key.anchor}"></a>'
        assert (link in user, link in peers) == (not key.is_peer, key.is_peer), key.name
    named = {key.name for key in all_keys() if key.is_peer}
    assert {"model.plus_one", "data.train.coordinates", "model.roi.pooling.level_rule"} < named
    assert "model.rpn.post_nms_top_n_per_level.test" in named and "train.lr" not in named
