"""`frcnn train --seeds N`: a series of runs, interrupted, resumed and summarized."""

import json
import statistics

import pytest
import yaml

from frcnn.cli.eval import main as evaluate
from frcnn.cli.train import main
from frcnn.errors import DataError, TrainingError
from frcnn.files.checkpoint import load_checkpoint, save_checkpoint
from frcnn.runs import train as runs
from frcnn.runs.series_folder import SeriesFolder, format_summary, summarise, write_summary
from tests.training.experiments import Killed, differing, tiny_settings
from tests.training.ranks import spawn_ranks

COCO = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(steps=2, num_logged_images=0, seed=3)))
    return path


@pytest.fixture(scope="module")
def series(config):
    """Seeds 3 and 4."""
    out = config.parent / "series"
    assert main([str(config), "--seeds", "2", "--out", str(out)]) == 0
    return out


def read(path):
    return json.loads(path.read_text())


def stop_at(monkeypatch, *, seed, step, error):
    """Make the run of one seed raise `error` after a step."""

    def train(experiment, folder, **settings):
        def on_step(done):
            if experiment.config.train.seed == seed and done == step:
                raise error

        return plain(experiment, folder, on_step=on_step, **settings)

    plain = runs.train_experiment
    monkeypatch.setattr(runs, "train_experiment", train)


def test_each_run_of_a_series_is_the_run_of_its_seed(config, series, tmp_path):
    """Bit-identical weights, although another run was trained before in the same process."""
    assert main([str(config), "--out", str(tmp_path / "single"), "train.seed=4"]) == 0
    assert differing(tmp_path / "single", series / "seed_4") == []
    assert read(tmp_path / "single" / "eval.json") == read(series / "seed_4" / "eval.json")
    assert differing(series / "seed_3", series / "seed_4") != []
    assert sorted(path.name for path in series.iterdir()) == ["seed_3", "seed_4", "seeds.json"]


def test_a_run_of_a_series_is_a_normal_run(series, capsys):
    run = series / "seed_4"
    assert yaml.safe_load((run / "config.yaml").read_text())["train"]["seed"] == 4
    assert main(["--resume", "--out", str(run)]) == 0
    assert "is finished (2 steps)" in capsys.readouterr().out
    assert evaluate([str(run), "--out", str(run / "again")]) == 0
    assert read(run / "again" / "eval.json")["coco"] == read(run / "eval.json")["coco"]


def test_the_summary_matches_the_reports_of_the_runs(series):
    summary = read(series / "seeds.json")
    reports = [read(series / f"seed_{seed}" / "eval.json") for seed in (3, 4)]
    assert (summary["seeds"], summary["unfinished"], summary["init_from"]) == ([3, 4], [], None)
    assert summary["metrics"]["AP50"]["values"] == [report["coco"]["AP50"] for report in reports]
    assert summary["metrics"]["voc_mAP"]["mean"] == statistics.fmean(report["voc"]["mAP"] for report in reports)
    assert summary["per_class"]["circle"]["AP"]["values"] == [report["per_class"]["circle"]["AP"] for report in reports]


def test_an_interrupted_series_resumes_bit_identically(config, tmp_path, monkeypatch, capsys):
    """Interrupted in its second run, after a checkpoint. The number of seeds may be raised."""
    out = tmp_path / "series"
    keys = ["train.checkpoint_every=1", "train.steps=3"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, seed=4, step=2, error=Killed())
        main([str(config), "--seeds", "2", "--out", str(out), *keys])
    assert read(out / "seeds.json")["seeds"] == [3]
    assert not (out / "seed_5").exists()
    finished = (out / "seed_3" / "checkpoints" / "last.pt").read_bytes()
    capsys.readouterr()

    assert main(["--seeds", "3", "--resume", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"the run in {out / 'seed_3'} is finished (3 steps)" in printed and "resume at step 2 of 3" in printed
    assert (out / "seed_3" / "checkpoints" / "last.pt").read_bytes() == finished
    assert read(out / "seeds.json")["seeds"] == [3, 4, 5]
    for seed in (4, 5):
        single = tmp_path / f"single_{seed}"
        assert main([str(config), "--out", str(single), f"train.seed={seed}", *keys]) == 0
        assert differing(single, out / f"seed_{seed}") == []


def test_a_failure_stops_the_series_and_names_the_resume_command(config, tmp_path, monkeypatch, capsys):
    out = tmp_path / "series"
    stop_at(monkeypatch, seed=4, step=1, error=TrainingError("the loss is NaN"))
    assert main([str(config), "--seeds", "3", "--out", str(out)]) == 1
    message = capsys.readouterr().err
    assert "error: the loss is NaN" in message and "stopped at seed 4" in message
    assert f"frcnn train --seeds 3 --resume --out {out}" in message
    assert read(out / "seeds.json")["seeds"] == [3] and read(out / "seeds.json")["unfinished"] == [4, 5]


def test_a_series_is_overwritten_only_on_request(config, series, tmp_path, capsys):
    before = (series / "seed_3" / "checkpoints" / "last.pt").read_bytes()
    for seed in (3, 4, 9):  # for any seed
        assert main([str(config), "--seeds", "1", "--out", str(series), f"train.seed={seed}"]) == 2
        assert "already holds the runs of seed 3, 4" in capsys.readouterr().err
    assert main([str(config), "--seeds", "1", "--out", str(series), "--overwrite", "train.batch_size=99"]) == 2
    assert (series / "seed_3" / "checkpoints" / "last.pt").read_bytes() == before
    capsys.readouterr()

    assert main([str(config), "--out", str(series)]) == 2
    assert "holds a series, the runs of seed 3, 4" in capsys.readouterr().err
    assert main(["--resume", "--out", str(series)]) == 2
    assert "--resume --seeds N" in capsys.readouterr().err
    assert main([str(config), "--seeds", "1", "--out", str(series / "seed_3")]) == 2
    assert "holds a single run" in capsys.readouterr().err

    (tmp_path / "seeds.json").write_text('{"seeds": [1]}')
    assert main([str(config), "--seeds", "1", "--out", str(tmp_path), "--overwrite"]) == 2
    assert "holds no run of a series, but it holds seeds.json" in capsys.readouterr().err
    (tmp_path / "seeds.json").unlink()
    (tmp_path / "seed_4").mkdir()
    (tmp_path / "seed_4" / "eval.json").write_text("mine")
    assert main([str(config), "--seeds", "2", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path / 'seed_4'} holds no run, but it holds eval.json" in capsys.readouterr().err
    assert not (tmp_path / "seed_3").exists()


def test_overwrite_deletes_every_run(config, tmp_path, monkeypatch):
    """Also runs with other seeds, so that the new series does not include them."""
    out = tmp_path / "series"
    for seed in (3, 4, 8):
        path = SeriesFolder(out).run(seed).last
        path.parent.mkdir(parents=True)
        path.write_text("old")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(Killed), monkeypatch.context() as patch:
        patch.setattr(runs, "train_experiment", lambda *_, **__: (_ for _ in ()).throw(Killed))
        main([str(config), "--seeds", "2", "--out", str(out), "--overwrite"])
    assert SeriesFolder(out).begun() == []
    assert (out / "notes.txt").read_text() == "mine"
    assert main([str(config), "--seeds", "1", "--out", str(out)]) == 0  # a seeds.json without runs may be overwritten


def test_a_series_that_cannot_be_resumed(config, series, tmp_path, capsys):
    resume = ["--resume", "--out", str(series)]
    for arguments, message in [
        (["--seeds", "1", *resume], "holds the run of seed 4, but the requested seeds are 3 to 3"),
        (
            [str(config), "--seeds", "5", *resume, "train.seed=4"],
            "holds the run of seed 3, but the requested seeds",
        ),
        ([str(config), "--seeds", "2", *resume, "train.lr=1"], "train.lr: 0.002 in the run, 1.0 now"),
        (["--seeds", "2", "--resume", "--out", str(tmp_path)], "holds no series to resume"),
        ([str(config), "--seeds", "2", "--resume", "--out", str(tmp_path)], "holds no series to resume"),
    ]:
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_invalid_numbers_of_seeds_have_status_2(number, config, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(config), f"--seeds={number}"])
    assert stopped.value.code == 2
    assert "is not a positive integer" in capsys.readouterr().err


def test_all_runs_have_the_same_initial_weights(config, series, tmp_path, monkeypatch, capsys):
    """--init-from also applies to runs that a resumed series starts."""
    source, out = tmp_path / "weights.pt", tmp_path / "series"
    checkpoint = load_checkpoint(series / "seed_3" / "checkpoints" / "best.pt")
    save_checkpoint(source, checkpoint)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, seed=3, step=1, error=Killed())
        main([str(config), "--seeds", "2", "--out", str(out), "--init-from", str(source), "train.lr=1e-30"])
    assert read(out / "seeds.json")["init_from"] == str(source)
    capsys.readouterr()
    assert main(["--seeds", "2", "--resume", "--out", str(out)]) == 0
    assert capsys.readouterr().out.count(f"tensors loaded from {source}") == 1  # seed 3 is resumed, seed 4 starts
    for seed in (3, 4):
        weights = load_checkpoint(out / f"seed_{seed}" / "checkpoints" / "last.pt")["model"]
        assert all(weights[name].equal(value) for name, value in checkpoint["model"].items() if "weight" in name)
    assert read(out / "seeds.json")["init_from"] == str(source)

    (out / "seeds.json").unlink()
    assert main(["--seeds", "2", "--resume", "--out", str(out)]) == 2
    assert "seeds.json is missing: it holds the initial weights of the series" in capsys.readouterr().err


def test_a_dry_run_tries_one_seed_and_writes_nothing(config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(config), "--seeds", "3", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("dry run done") == 1 and "only seed 3 was tried" in printed
    assert list(tmp_path.iterdir()) == []


def report(value):
    """The content of an eval.json, with a class without objects."""
    row = {"AP": value, "AP50": value, "voc_AP": value, "voc_AP_11point": value, "objects": 7}
    return {
        "coco": dict.fromkeys(COCO, value) | {"APl": None},
        "voc": {"mAP": value, "mAP_11point": value},
        "per_class": {"cat": row, "dog": dict.fromkeys(row, None)},
    }


def test_mean_and_deviation():
    """0.1, 0.2, 0.6: mean 0.3; deviations -0.2, -0.1, 0.3; variance 0.14 / 2 = 0.07. One seed has no deviation."""
    summary = summarise([report(value) for value in (0.1, 0.2, 0.6)])
    ap = summary["metrics"]["AP"]
    assert (ap["values"], ap["range"]) == ([0.1, 0.2, 0.6], [0.1, 0.6])
    assert ap["mean"] == pytest.approx(0.3) and ap["std"] == pytest.approx(0.07**0.5)
    nothing = {"values": [None] * 3, "mean": None, "std": None, "range": None}
    assert summary["metrics"]["APl"] == nothing and summary["per_class"]["dog"]["AP50"] == nothing
    assert set(summary["metrics"]) == {*COCO, "voc_mAP", "voc_mAP_11point"}
    assert set(summary["per_class"]["cat"]) == {"AP", "AP50", "voc_AP", "voc_AP_11point"}
    assert summarise([report(0.5)])["metrics"]["AP"] == {"values": [0.5], "mean": 0.5, "std": None, "range": [0.5] * 2}


def test_the_table_is_aligned():
    summary = summarise([report(0.25), report(1)]) | {"seeds": [9, 10]}
    assert format_summary(summary) == "\n".join(
        [
            "              seed 9  seed 10    mean     std     min     max",
            "AP             25.00   100.00   62.50   53.03   25.00  100.00",
            "AP50           25.00   100.00   62.50   53.03   25.00  100.00",
            "AP75           25.00   100.00   62.50   53.03   25.00  100.00",
            "VOC mAP        25.00   100.00   62.50   53.03   25.00  100.00",
            "VOC 11-point   25.00   100.00   62.50   53.03   25.00  100.00",
            "AP50 cat       25.00   100.00   62.50   53.03   25.00  100.00",
        ]
    )
    of_one = format_summary(summarise([report(0.5)]) | {"seeds": [0]})
    assert of_one.splitlines()[1] == "AP             50.00   50.00       -   50.00   50.00"


@pytest.mark.parametrize("text", [None, "{", '{"coco": {}}', '{"coco": 1, "voc": 2, "per_class": 3}'])
def test_a_missing_or_damaged_report(text, tmp_path):
    folder = SeriesFolder(tmp_path)
    folder.run(0).path.mkdir()
    if text is not None:
        folder.run(0).evaluation.write_text(text)
    with pytest.raises(DataError, match="seed_0/eval.json: missing or damaged .*Evaluate the run again"):
        write_summary(folder, [0], [0], init_from=None)
    assert not folder.summary.exists()


def start(rank, *arguments):
    assert main([str(argument) for argument in arguments]) == 0


@pytest.mark.heavy
def test_two_ranks_train_a_series(config, tmp_path):
    """All runs share one process group."""
    spawn_ranks(start, config, "--seeds", 2, "--out", tmp_path / "series", "train.steps=1")
    assert read(tmp_path / "series" / "seeds.json")["seeds"] == [3, 4]
    for seed in (3, 4):
        environment = read(tmp_path / "series" / f"seed_{seed}" / "env.json")
        assert (environment["seed"], environment["world_size"]) == (seed, 2)
