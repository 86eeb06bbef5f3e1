"""Loading of configs: inheritance, overrides and error messages."""

import pytest

from frcnn.config import Config, dump_config, load_config, parse_config, to_yaml
from frcnn.errors import ConfigError

SMALL = """
data:
  train: {format: shapes, num_images: 40}
  val: {format: shapes, num_images: 20}
train: {epochs: 2, lr: 0.1}
"""
TWO_SETS = """
base: small.yaml
data:
  train: [{format: voc, root: a}, {format: voc, root: b}]
"""


@pytest.fixture
def write(tmp_path):
    """Write a config file into the test's folder and return its path."""

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def small(write):
    return write("small.yaml", SMALL)


@pytest.fixture
def two_sets(write, small):
    return write("two_sets.yaml", TWO_SETS)


def message(path, *overrides):
    """The text of the ConfigError without the test's folder."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "")


class TestInheritance:
    def test_each_file_changes_its_base_key_by_key(self, write, small):
        write("deep/middle.yaml", "base: ../small.yaml\ntrain: {lr: 0.2, momentum: 0.8}")
        config = load_config(write("top.yaml", "base: deep/middle.yaml\ntrain: {lr: 0.3}"))
        assert (config.train.lr, config.train.momentum, config.train.epochs) == (0.3, 0.8, 2)

    def test_a_list_replaces_a_list(self, write, small):
        write("list.yaml", "base: small.yaml\ndata: {short_side: [100, 200, 300]}")
        assert load_config(write("top.yaml", "base: list.yaml\ndata: {short_side: [400]}")).data.short_side == [400]

    def test_a_source_of_another_format_replaces_the_whole_source(self, write, small):
        config = load_config(write("top.yaml", "base: small.yaml\ndata: {val: {format: voc, root: x}}"))
        assert config.data.val.model_dump(mode="json") == {
            "format": "voc",
            "root": "x",
            "split": "trainval",
            "difficult": "ignore",
            "coordinates": "edges",
        }

    def test_a_source_of_the_same_format_merges(self, write, small):
        config = load_config(write("top.yaml", "base: small.yaml\ndata: {val: {format: shapes, seed: 3}}"))
        assert (config.data.val.num_images, config.data.val.seed) == (20, 3)

    def test_null_in_a_file_overrides_its_base(self, write, small):
        write("weights.yaml", "base: small.yaml\nmodel: {backbone: {weights: x.pt}}")
        config = load_config(write("top.yaml", "base: weights.yaml\nmodel: {backbone: {weights: null}}"))
        assert config.model.backbone.weights is None

    @pytest.mark.parametrize("overrides", [["train.steps=5"], ["train.epochs=7", "train.steps=5"]])
    def test_steps_remove_the_epochs_of_the_base(self, small, overrides):
        train = load_config(small, overrides).train
        assert (train.steps, train.epochs) == (5, None)

    def test_epochs_remove_the_steps_of_the_base(self, write, small):
        write("steps.yaml", "base: small.yaml\ntrain: {steps: 9}")
        train = load_config(write("top.yaml", "base: steps.yaml\ntrain: {epochs: 3}")).train
        assert (train.steps, train.epochs) == (None, 3)

    def test_both_in_one_file_is_an_error(self, write, small):
        path = write("both.yaml", "base: small.yaml\ntrain: {epochs: 3, steps: 9}")
        assert message(path) == "both.yaml: train: set exactly one of epochs and steps"

    def test_neither_is_an_error(self, small):
        assert "set exactly one of epochs and steps" in message(small, "train.epochs=null")

    def test_circular_base(self, write):
        write("b.yaml", "base: c.yaml")
        write("c.yaml", "base: a.yaml")
        assert message(write("a.yaml", "base: b.yaml")) == (
            "a.yaml: circular base: a.yaml -> b.yaml -> c.yaml -> a.yaml"
        )

    def test_missing_base(self, write):
        assert message(write("a.yaml", "base: b.yaml")) == "b.yaml (the base of a.yaml): no such file"


class TestOverrides:
    @pytest.mark.parametrize(
        ("override", "section", "key", "value"),
        [
            ("train.lr=1e-3", "train", "lr", 0.001),
            ("train.clip_grad_norm=null", "train", "clip_grad_norm", None),
            ("data.classes=[cat, '1e-3']", "data", "classes", ["cat", "1e-3"]),
            ("data.flip=0", "data", "flip", 0.0),
        ],
    )
    def test_values_are_yaml(self, small, override, section, key, value):
        assert getattr(getattr(load_config(small, [override]), section), key) == value

    def test_a_value_may_contain_an_equals_sign(self, small):
        assert load_config(small, ["model.backbone.weights=a=b.pt"]).model.backbone.weights == "a=b.pt"

    def test_entries_of_a_list(self, two_sets):
        train = load_config(two_sets, ["data.train.1.root=x", "data.train.1.split=train"]).data.train
        assert [str(source.root) for source in train] == ["a", "x"]
        assert [source.split for source in train] == ["trainval", "train"]

    @pytest.mark.parametrize("flip", [False, True])
    def test_another_format_in_any_order(self, small, flip):
        overrides = ["data.val.format=voc", "data.val.root=x"]
        val = load_config(small, overrides[::-1] if flip else overrides).data.val
        assert (val.format, str(val.root)) == ("voc", "x")

    def test_the_later_override_wins(self, small):
        assert load_config(small, ["train.lr=1", "train.lr=2"]).train.lr == 2

    @pytest.mark.parametrize(
        ("override", "problem"),
        [
            ("train.lr", "expected section.key=value"),
            ("=3", "expected section.key=value"),
            ("train..lr=3", "expected section.key=value"),
            ("train.lr=", "the value is missing; to unset the key, write train.lr=null"),
            ("train.lr=[1", "the value is not valid YAML"),
        ],
    )
    def test_malformed(self, small, override, problem):
        assert message(small, override).startswith(f"override '{override}': {problem}")

    def test_keys_of_a_list_need_the_entry(self, two_sets):
        assert "data.train is a list; select an entry, for example data.train.0.root" in message(
            two_sets, "data.train.root=x"
        )

    def test_no_such_entry(self, two_sets):
        assert "data.train.2 does not exist; data.train has 2 entries, counted from 0" in message(
            two_sets, "data.train.2.root=x"
        )


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.batchsize=2", "train.batchsize: unknown key; did you mean train.batch_size?"),
        ("lr=3", "lr: unknown key; did you mean train.lr?"),
        ("trian.lr=3", "trian: unknown key; did you mean train?"),
        ("wieghts=x", "wieghts: unknown key; did you mean model.backbone.weights?"),
        ("data.train.num_imgs=2", "data.train.num_imgs: unknown key; did you mean data.train.num_images?"),
        ("data.frobnicate=2", "data.frobnicate: unknown key; valid keys: train, val, classes, "),
        (
            "data.train.format=vox",
            'data.train.format: "vox" is not one of voc, coco, yolo, csv, openimages, shapes, python; '
            "did you mean voc?",
        ),
        (
            "data.train={root: x}",
            "data.train.root: unknown key; it belongs to another format; valid keys: format, num_images",
        ),
        ("data.train=[{format: voc}]", "data.train.0.root: required key is missing"),
        (
            "data.train=[{root: x}]",
            "data.train.0.format: required key is missing; use one of voc, coco, yolo, csv, openimages, shapes, python",
        ),
        ("data.train=[]", "data.train: expected at least 1 entry, found []"),
        ("data.train=5", "data.train: expected a mapping or a list, found 5"),
        ("data.train.num_images=1.5", "data.train.num_images: expected an integer, found 1.5"),
        ("data.short_side=abc", 'data.short_side: expected an integer or a list, found "abc"'),
        ("data.short_side=[600, a]", 'data.short_side.1: expected an integer, found "a"'),
        ("data.short_side=-4", "data.short_side: must be greater than 0, found -4"),
        ("data.short_side=4000", "data: short_side 4000 is above long_side 1000"),
        ("data.mean=[1, 2]", "data.mean.2: required key is missing"),
        ("data.classes=[a, 1]", "data.classes.1: expected a string, found 1"),
        ("model.anchors.sizes=[[a]]", 'model.anchors.sizes.0.0: expected a number, found "a"'),
        ("model.rpn.iou_negative=0.9", "model.rpn: iou_negative 0.9 is above iou_positive 0.7"),
        ("model.roi.iou_negative_low=0.9", "model.roi: iou_negative_low 0.9 is above iou_positive 0.5"),
        (
            "model.roi.head.norm=group",
            "model.roi.head: norm 'group' belongs to the head's convolutions, but convs is 0",
        ),
        ("model.roi.head.kind=vgg_fc", "model: roi.head.kind 'vgg_fc' needs a vgg16 backbone, not 'resnet50'"),
        (
            "model.roi.head.kind=res",
            'model.roi.head.kind: "res" is not one of two_fc, conv_fc, vgg_fc, res5; did you mean res5?',
        ),
        ("model.backbone.strides=[8, 16]", "model.backbone: neck 'none' uses one map, but strides are [8, 16]"),
        ("model.backbone={neck: fpn, strides: [4, 16]}", "model.backbone: neck 'fpn' needs strides that are powers of"),
        ("model.backbone={neck: fpn, strides: [16, 8]}", "model.backbone: neck 'fpn' needs strides that are powers of"),
        (
            "model.backbone={neck: fpn, strides: [32, 32]}",
            "model.backbone: neck 'fpn' needs strides that are powers of",
        ),
        ("model.backbone={neck: fpn, strides: []}", "model.backbone: neck 'fpn' needs strides that are powers of two"),
        ("model={backbone: {name: vgg16}, roi: {head: {kind: res5}}}", "model: roi.head.kind 'res5' needs a resnet or"),
        ("model={backbone: {name: timm/resnet18}, roi: {head: {kind: res5}}}", "model: roi.head.kind 'res5' needs a"),
        ("train.lr=fast", 'train.lr: expected a number, found "fast"'),
        ("train.lr=.nan", "train.lr: must be a finite number"),
        ("train.momentum=2", "train.momentum: must be less than or equal to 1, found 2"),
        ("train.epochs=true", "train: epochs cannot be true"),
        ("train=null", "train: expected a mapping, found null"),
        ("train.accumulate=3", "train: batch_size 2 is not divisible by accumulate 3"),
        ("train.schedule.milestones=[0.9, 0.5]", "train.schedule: milestones [0.9, 0.5] must be ascending"),
        (
            "train.schedule.kind=cosin",
            'train.schedule.kind: "cosin" is not one of multistep, cosine, constant; did you',
        ),
    ],
)
def test_one_error_is_one_line(small, override, problem):
    text = message(small, override)
    assert text.startswith(f"override '{override}': {problem}")
    assert "\n" not in text


def test_res5_with_a_pyramid_is_an_error(small):
    overrides = ["model.roi.head.kind=res5", "model.backbone.neck=fpn"]
    assert "roi.head.kind 'res5' continues from the map of stride 16" in message(small, *overrides)


def test_res5_continues_a_resnext_too(small):
    overrides = ["model.backbone.name=resnext50_32x4d", "model.roi.head.kind=res5", "model.roi.pooling.size=14"]
    assert load_config(small, overrides).model.roi.head.kind == "res5"


def test_vgg_fc_requires_pooling_size_seven(small):
    overrides = ["model.backbone.name=vgg16", "model.roi.head.kind=vgg_fc", "model.roi.pooling.size=8"]
    assert "roi.head.kind 'vgg_fc' needs roi.pooling.size 7, not 8" in message(small, *overrides)


def test_strides_of_torchvisions_mobilenet_can_be_given(small):
    overrides = ["model.backbone.name=mobilenet_v3_large", "model.backbone.neck=fpn", "model.backbone.strides=[32, 32]"]
    assert load_config(small, overrides).model.backbone.strides == [32, 32]


@pytest.mark.parametrize(
    ("overrides", "sides"),
    [
        ([], (600, 1000)),
        (["data.short_side=[480, 560, 500]"], (560, 1000)),
        (["data.test_short_side=400", "data.test_long_side=700"], (400, 700)),
    ],
)
def test_sides_of_evaluation_default_to_the_largest_of_training(small, overrides, sides):
    assert load_config(small, overrides).data.test_sides == sides


def test_all_errors_are_listed_with_their_sources(write, small):
    path = write("mine.yaml", "base: small.yaml\ntrain: {btch_size: 2}\ndata: {val: {format: voc}}")
    assert message(path, "train.lr=x").splitlines() == [
        "3 errors in the config:",
        "  mine.yaml: data.val.root: required key is missing",
        "  mine.yaml: train.btch_size: unknown key; did you mean train.batch_size?",
        "  override 'train.lr=x': train.lr: expected a number, found \"x\"",
    ]


def test_the_message_names_the_file_that_contains_the_error(write):
    write("small.yaml", SMALL.replace("lr: 0.1", "lr: -1"))
    assert message(write("top.yaml", "base: small.yaml\ntrain: {seed: 1}")).startswith("small.yaml: train.lr: must be")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "a.yaml: the file is empty"),
        ("# a comment", "a.yaml: the file is empty"),
        ("- 1", "a.yaml: a config must be a mapping of sections"),
        ("train:\n  lr: [1\n  epochs: 2", "a.yaml, line 3: "),
        ("train:\n  lr: 1\n  lr: 2", "a.yaml, line 3: duplicate key 'lr', first on line 2"),
        ("base: [a]", "a.yaml: base: expected a path"),
        ("train: {epochs: 1}", "a.yaml: data: required key is missing"),
    ],
)
def test_invalid_files(write, text, problem):
    assert message(write("a.yaml", text)).startswith(problem)


def test_no_such_file(tmp_path):
    assert message(tmp_path / "a.yaml") == "a.yaml: no such file"


def test_file_that_is_not_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\xfa")
    assert message(tmp_path / "a.yaml").startswith("a.yaml: cannot be read")


def test_round_trip(write, two_sets):
    config = load_config(two_sets, ["train.lr=1e-5", "data.classes=['1e-3', 'yes', 'null', 'a: b']"])
    assert parse_config(dump_config(config), source="dump") == config
    assert load_config(write("resolved.yaml", to_yaml(config))) == config


@pytest.mark.parametrize("raw", [{"data": {}}, [], {"nonsense": 1}])
def test_parse_names_its_source(raw):
    with pytest.raises(ConfigError, match="last.pt"):
        parse_config(raw, source="last.pt")


def test_defaults_alone_are_valid():
    shapes = {"format": "shapes"}
    assert Config(data={"train": shapes, "val": shapes}).train.epochs == 12
