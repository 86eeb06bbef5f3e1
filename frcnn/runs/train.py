"""Build, resume and train one run. `train` is the Python API."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from frcnn.check.build_checks import preflight_lines
from frcnn.config import Config, dump_config, load_config, override_config
from frcnn.errors import ConfigError
from frcnn.evaluation.coco_packages import check_installed
from frcnn.files.checkpoint import find_checkpoint
from frcnn.files.reading import read_json
from frcnn.runs.failures import memory_explained
from frcnn.runs.resume import changed_length, is_finished, is_restarted, keep_source, load_run, own_config
from frcnn.runs.series_folder import refuse_series
from frcnn.training.build_experiment import Experiment, build_experiment, describe
from frcnn.training.distributed import World, done_by_main, join_world
from frcnn.training.init_from import initialize_from
from frcnn.training.run_folder import RunFolder, describe_environment, prepare_folder, refuse_overwriting
from frcnn.training.trainer import train_experiment

ConfigLike = str | Path | Config | Mapping[str, Any]
"""A YAML file, a validated config, or the content of a YAML file without `base`."""


class TrainingResult(NamedTuple):
    """The result of a training run."""

    folder: Path
    """The run folder, for `frcnn.load` and `frcnn.evaluate`."""
    step: int
    """Optimizer steps of the run."""
    steps_done: int
    """Optimizer steps that this call did: fewer than `step` if the run was resumed, 0 if it was already finished."""
    report: dict[str, Any]
    """The content of eval.json, the evaluation of best.pt: `report["coco"]["AP"]`, `report["voc"]["mAP"]`. Empty if
    that file was deleted."""


def train(
    config: ConfigLike | None = None,
    *,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool | Literal["auto"] = False,
    init_from: str | Path | None = None,
    overwrite: bool = False,
    check_data: bool = True,
) -> TrainingResult:
    """Train a detector and evaluate it, as `frcnn train` does.

    Messages are printed to stdout and progress to stderr. Under torchrun every process must make the same call. The
    call seeds PyTorch's global random state, and train.deterministic and train.tf32 stay set for the process.

    Args:
        config: a YAML file, a `Config`, or a dict with the content of a YAML file. With `resume` it may be omitted; the
            run's own config is used.
        overrides: changes of the config, as on the command line: `["train.lr=0.01", "data.workers=4"]`. Code that a
            dict names by import path is imported only if an override contains the path.
        out: the run folder. Default: runs/NAME for a config file NAME.yaml; required otherwise.
        resume: True continues the run in `out`. "auto" continues it, or starts it if there is no run. A process that
            torchrun has restarted always uses "auto".
        init_from: a run folder, a checkpoint or a weight file; the weights that fit become the initial weights. Ignored
            if the run is resumed.
        overwrite: delete the run that `out` holds. Cannot be combined with `resume`.
        check_data: check the data briefly before a new run.

    Returns:
        the run folder, the number of steps, and the evaluation of the best checkpoint; the same on every rank.

    Raises:
        ConfigError: the config cannot be used, differs from that of the resumed run, or `out` already holds a run.
        DataError: the dataset cannot be used.
        CheckpointError: a checkpoint or weight file cannot be used, or there is no run to resume.
        TrainingError: training failed: a loss is not finite, the disk or the memory is full.
        frcnn.training.faults.stop.Stopped: training got SIGINT or SIGTERM; the state is saved.

    Example:

        result = frcnn.train("configs/demo.yaml", overrides=["train.steps=100"])
        print(result.report["coco"]["AP"])
        predictions = frcnn.load(result.folder).predict("street.jpg")
    """
    if resume and overwrite:
        raise ConfigError("resume continues a run and overwrite deletes it: set one of them only")
    folder = RunFolder(default_folder(config, out))
    refuse_series(folder.path)
    if config is None and not resume:
        raise ConfigError("config is missing: it can be omitted only to resume a run")
    settings, name = open_config(config, folder, overrides)
    check_installed(settings.eval.backend)  # otherwise it would fail after the first epoch
    with join_world(settings.train.device) as world, memory_explained(settings, world):
        if resume == "auto" or is_restarted():
            resume = done_by_main(folder.can_resume, world)
        if not resume:
            done_by_main(lambda: refuse_overwriting(folder, overwrite=overwrite), world)
        return train_run(
            settings,
            folder,
            world,
            name=name,
            is_resumed=bool(resume),
            init_from=None if resume else init_from,
            check_data=check_data,
            prepare=lambda: prepare_folder(folder, overwrite=overwrite),
        )


def rehearse(
    work: Callable[[Experiment], list[str]],
    config: ConfigLike | None,
    *,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    init_from: str | Path | None = None,
    check_data: bool = True,
) -> None:
    """Build a run as `train` does, call `work` instead of training, and print the lines that it returns.

    Args:
        work: called on every rank, for example `dry_run` or `find_lr`.
        resume: check that the run in `out` can be resumed with this config. Its weights are not loaded.
    """
    folder = RunFolder(default_folder(config, out))
    settings, name = open_config(config, folder, overrides)
    check_installed(settings.eval.backend)
    with join_world(settings.train.device) as world, memory_explained(settings, world):
        resumed = load_run(folder, settings, world)[0] if resume else None
        experiment = prepare_experiment(
            settings, folder, world, name=name, resumed=resumed, init_from=init_from, check_data=check_data
        )
        announce(world, "\n".join(work(experiment)))


def default_folder(config: ConfigLike | None, out: str | Path | None) -> Path:
    """`out`, or runs/NAME for a config file NAME.yaml.

    Raises:
        ConfigError: `out` is missing and the config is not a file.
    """
    if out is not None:
        return Path(out)
    if not isinstance(config, str | Path):
        raise ConfigError("out is missing: give the run folder, because the config is not a file")
    return Path("runs") / Path(config).stem


def open_config(config: ConfigLike | None, folder: RunFolder, overrides: Sequence[str]) -> tuple[Config, str]:
    """Read and validate a config; returns it with its name for the log.

    If the config is None or the file in the run folder, it is the run's own config. That file is restored from the
    checkpoint if it is missing.
    """
    if config is None or (isinstance(config, str | Path) and Path(config) == folder.config):
        config = own_config(folder)
    if isinstance(config, str | Path):
        return load_config(Path(config), overrides), str(config)
    raw = dump_config(config) if isinstance(config, Config) else dict(config)
    given = config.data.given_paths if isinstance(config, Config) else []
    return override_config(raw, overrides, source="config", given=given), "from Python"


def train_run(
    config: Config,
    folder: RunFolder,
    world: World,
    *,
    name: str,
    is_resumed: bool,
    init_from: str | Path | None,
    check_data: bool,
    prepare: Callable[[], None],
) -> TrainingResult:
    """Build one run, and train or resume it. Every rank calls it.

    Args:
        name: name of the config, for the log.
        prepare: creates the folder of a new run, on rank 0, after everything is built.
    """
    resumed, source = load_run(folder, config, world) if is_resumed else (None, folder.last)
    experiment = prepare_experiment(
        config, folder, world, name=name, resumed=resumed, init_from=init_from, check_data=check_data
    )
    start = 0
    if resumed is not None:
        start = resumed["step"]
        if is_finished(resumed, experiment):
            early = "" if start == experiment.length else ", stopped early"
            announce(world, f"the run in {folder.path} is finished ({start} steps{early}); nothing to do")
            return read_result(folder, world, step=start, steps_done=0)
        done_by_main(lambda: keep_source(source, folder), world)
        announce(world, f"resume at step {start} of {experiment.length}{changed_length(resumed, config)}")
    else:
        done_by_main(prepare, world)
    progress = train_experiment(experiment, folder, resumed=resumed)
    announce(world, f"done: {folder.path}")
    return read_result(folder, world, step=progress.step, steps_done=progress.step - start)


def prepare_experiment(
    config: Config,
    folder: RunFolder,
    world: World,
    *,
    name: str,
    resumed: dict[str, Any] | None,
    init_from: str | Path | None,
    check_data: bool,
) -> Experiment:
    """Build the experiment of a run and print its description. The state of a resumed run is not restored yet."""
    announce(world, head_line(config, world, name, folder))
    weights_follow = init_from is not None and config.model.backbone.weights is None
    experiment = build_experiment(config, world, pretrained=resumed is None and not weights_follow)
    announce(world, describe(experiment))
    if init_from is not None:
        source = find_checkpoint(Path(init_from)) if Path(init_from).is_dir() else Path(init_from)
        report = initialize_from(experiment.model, source, class_names=experiment.train_set.class_names)
        announce(world, report.text(source))
    if check_data and resumed is None:
        done_by_main(lambda: announce(world, "\n".join(data_check(experiment))), world)
    return experiment


def read_result(folder: RunFolder, world: World, *, step: int, steps_done: int) -> TrainingResult:
    """The result of a run, with the content of its eval.json, on every rank."""

    def read() -> TrainingResult:
        report = read_json(folder.evaluation) if folder.evaluation.exists() else {}
        return TrainingResult(folder.path, step, steps_done, report)

    return done_by_main(read, world)


def data_check(experiment: Experiment) -> list[str]:
    """The lines of the short data check. It does not change the state of any random generator."""
    strides = experiment.model.backbone.strides
    return preflight_lines(experiment.config, experiment.train_set, experiment.val_set, strides)


def head_line(config: Config, world: World, name: str, folder: RunFolder) -> str:
    """The first line of the log: version, commit, device, config."""
    about = describe_environment(seed=config.train.seed, device=world.device, world_size=world.size)
    commit = (about["git_commit"] or "unknown")[:10] + (" with changes" if about["git_dirty"] else "")
    return (
        f"frcnn  {about['frcnn']}, commit {commit}, torch {about['torch']}, device {world.device}, "
        f"seed {config.train.seed}, config {name} -> {folder.path}"
    )


def announce(world: World, text: str) -> None:
    """Print a line on rank 0."""
    if world.is_main:
        print(text, flush=True)
