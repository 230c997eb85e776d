"""The command line. Heavy libraries are imported by the commands that need them: `hvg --help` answers at once."""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click

from pipeline.errors import UserError
from pipeline.paths import Paths

STAGES = ("make-shapes", "decode", "train", "generate", "evaluate", "report")
PER_LEVEL = ("train", "generate")
POOLED = ("make-shapes", "decode")  # one process, which has workers of its own
PATHS = Paths()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    """Hierarchical video generation: from a folder of videos to a trained hierarchy, its samples and a report.

    \b
    Begin:
      hvg doctor                                    what is missing on this machine
      hvg recipe shapes                             the embedded data, minutes on two cores
      hvg recipe folder --set data.root=/videos     your own videos
      hvg repro                                     everything that params.yaml asks for
    \b
    Look:
      hvg describe                                  levels, networks, cost of params.yaml
      hvg runs                                      what was run, side by side
    \b
    One stage by itself (DVC calls these; `dvc repro` runs those that are out of date):
      hvg run train --level 2
    """
    if not (PATHS.root / "dvc.yaml").is_file():
        raise UserError("dvc.yaml: not in this folder; run hvg in the project's")


@cli.command(short_help="Run one stage now.")
@click.argument("stage", type=click.Choice(STAGES))
@click.option("--level", type=click.IntRange(min=1), help="The level, for train and generate.")
@click.option("--key", help="The entry of params' shapes, for make-shapes.")
@click.option("--workers", type=click.IntRange(min=1), envvar="HVG_WORKERS",
              help="Processes. Default: HVG_WORKERS, or one a GPU (train, generate), one a core (decode).")  # fmt: skip
@click.option("--retries", type=click.IntRange(min=0), default=1, show_default=True, envvar="HVG_RETRIES",
              help="How often a crash is tried again.")  # fmt: skip
@click.option("--deadline", type=click.FloatRange(min=0, min_open=True), metavar="MIN", envvar="HVG_DEADLINE",
              help="Minutes that a try may take.")  # fmt: skip
def run(stage: str, level: int | None, key: str | None, workers: int | None, retries: int, deadline: float | None):
    """Run one STAGE now: a Prefect flow around a torchrun job. Ctrl-C stops all of it.

    \b
    hvg run decode
    hvg run train --level 2 --workers 4
    """
    from pipeline.launch.flow import Plan, run_flow
    from pipeline.launch.job import Job, JobFailed
    from pipeline.launch.local import LocalLauncher
    from pipeline.launch.server import API_URL, prefect_server
    from pipeline.tether import die_with_parent

    args = _stage_arguments(stage, level, key)
    processes = 1
    if stage in PER_LEVEL:
        processes = workers or _workers(int(level or 1))
    elif stage in POOLED:
        args += [] if workers is None else ["--workers", str(workers)]
    elif _given("workers"):  # HVG_WORKERS is meant for the others
        raise UserError(f"--workers: {stage} runs in one process; leave it out")
    if "DVC_STAGE" in os.environ:
        die_with_parent()  # DVC, if killed, leaves its commands running
    name = " ".join([stage, *([f"level {level}"] if level else []), *([key] if key else [])])  # train level 2
    log = PATHS.state / "logs" / f"{name.replace(' ', '-')}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    job = Job(module=f"stages.{stage.replace('-', '_')}", args=tuple(args), workers=processes)
    plan = Plan(
        stage=stage,
        name=name,
        tags=(f"level-{level}",) if level else (),
        retries=retries,
        deadline=None if deadline is None else deadline * 60,
    )
    with _alone(name), prefect_server(PATHS.state) as url:
        os.environ[API_URL] = url
        os.environ.setdefault("PREFECT_HOME", str((PATHS.state / "prefect").resolve()))
        try:
            run_flow(plan, job, LocalLauncher(log))
        except JobFailed as error:
            raise click.ClickException(f"{name}: {error}; its log: {log}") from error


def _stage_arguments(stage: str, level: int | None, key: str | None) -> list[str]:
    """The stage's arguments, checked against params.yaml before anything starts."""
    from pipeline.params import load_params

    params = load_params(PATHS.params)
    if (level is not None) != (stage in PER_LEVEL):
        raise UserError(f"--level: {stage} needs one" if stage in PER_LEVEL else f"--level: {stage} takes none")
    if (key is not None) != (stage == "make-shapes"):
        raise UserError("--key: make-shapes needs one" if stage == "make-shapes" else f"--key: {stage} takes none")
    if level is not None and str(level) not in params.levels:
        raise UserError(f"--level {level}: {PATHS.params} has the levels {', '.join(params.levels)}")
    if key is not None and key not in params.shapes:
        raise UserError(f"--key {key}: {PATHS.params} has the shapes {', '.join(params.shapes) or '(none)'}")
    if level is not None:
        return ["--level", str(level)]
    return [] if key is None else ["--key", key]


def _given(option: str) -> bool:
    """Whether an option stands on the command line, not in the environment."""
    return click.get_current_context().get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE


def _workers(level: int) -> int:
    """As many as there are GPUs and as share the level's batch equally, found without importing torch; 1 elsewhere."""
    from pipeline.params import load_params

    if not (command := shutil.which("nvidia-smi")):
        return 1
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        gpus = len([device for device in visible.split(",") if device.strip()])
    else:
        gpus = subprocess.run([command, "-L"], capture_output=True, text=True, check=False).stdout.count("GPU ")
    batch = load_params(PATHS.params).of_level(level).training.batch
    return max((count for count in range(1, gpus + 1) if batch % count == 0), default=1)


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Refuse to run a stage twice at a time in one checkout: both would write to one folder."""
    from filelock import FileLock, Timeout

    folder = PATHS.state / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"{name.replace(' ', '-')}.lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"{name}: already running in this checkout; wait for it or stop it") from error


@cli.command(context_settings={"ignore_unknown_options": True}, short_help="Run every stage that is out of date.")
@click.argument("targets", nargs=-1, type=click.UNPROCESSED)
def repro(targets: tuple[str, ...]) -> None:
    """`dvc repro` with a Prefect server for its time, if none answers at PREFECT_API_URL. Options go to dvc.

    \b
    hvg repro
    hvg repro train-level@2
    """
    from pipeline.launch.repro import run_dvc_repro

    _check_inputs()
    sys.exit(run_dvc_repro(PATHS.state, targets))


def _check_inputs() -> None:
    """Whether what params.yaml names is there: before hours of training, not after them."""
    from pipeline.params import load_params
    from pipeline.paths import origin

    params = load_params(PATHS.params)
    if not params.rendered and not (PATHS.root / params.data.listing).is_file():
        raise UserError(f"data.listing: {params.data.listing} does not exist; `hvg index` writes it")
    for key in ("i3d_k400", "i3d_k600"):
        weights = getattr(params.evaluation, key)
        if weights is not None and not (origin(PATHS.root) / weights).is_file():
            raise UserError(f"evaluation.{key}: {weights} does not exist; null takes a random I3D instead")


@cli.command(short_help="Choose or change the active recipe, params.yaml.")
@click.argument("name", required=False)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A value in YAML; may be repeated.")
@click.option("--force", is_flag=True, help="Replace a params.yaml that was edited.")
@click.option("--list", "listing", is_flag=True, help="Name the recipes.")
def recipe(name: str | None, settings: tuple[str, ...], force: bool, listing: bool) -> None:
    """Make recipes/NAME.yaml the active params.yaml; without NAME change params.yaml as it is.

    \b
    hvg recipe --list
    hvg recipe folder --set data.root=/videos
    hvg recipe --set levels.2.training.iterations=2000
    """
    from pipeline.recipes import apply_recipe, recipe_names

    if listing or (name is None and not settings):
        click.echo("\n".join(recipe_names(PATHS)))
        return
    params = apply_recipe(PATHS, name, settings, force=force)
    click.echo(f"{PATHS.params}: {name or 'changed'}{''.join(f', {setting}' for setting in settings)}")
    root = (PATHS.root / params.data.root).expanduser()
    if not root.is_dir() and not params.rendered:
        click.echo(f"data.root {params.data.root} does not exist yet: put the videos there and run `hvg index`, "
                   "or give another by `hvg recipe --set data.root=PATH`")  # fmt: skip
        return
    _index()


@cli.command(short_help="List the videos of data.root again.")
def index() -> None:
    """Look through data.root again and write the listing that decode depends on."""
    _index()


def _index() -> None:
    from pipeline.data.listing import prepare_listing, read_listing
    from pipeline.data.walk import is_video
    from pipeline.params import load_params

    params = load_params(PATHS.params)
    if params.rendered:
        click.echo(f"{params.data.root}: make-shapes renders it and writes the listing; next: hvg repro")
        return
    changed = prepare_listing(params, PATHS)
    files = read_listing(PATHS.root / params.data.listing)
    videos = sum(map(is_video, files["path"]))
    state = "written" if changed else "up to date"
    size = sum(files["size"]) / 1e9
    click.echo(f"{params.data.listing}: {state}, {videos} videos, {size:.2f} GB; next: hvg repro")


@cli.command(short_help="Compare what was run.")
@click.option("--json", "as_json", is_flag=True, help="All of it, for programs.")
def runs(as_json: bool) -> None:
    """What was run, newest last: status, the parameters that differ, and the last metrics, side by side."""
    from pipeline.tracking import find_runs, runs_table

    found = find_runs(PATHS)
    if as_json:
        click.echo(json.dumps([run.plain() for run in found], indent=2))
    else:
        click.echo(runs_table(found) if found else "no runs yet; `hvg repro` makes some")


@cli.command(short_help="Levels, networks and cost of a parameter file.")
@click.option("--params", "file", type=click.Path(path_type=Path), default=PATHS.params, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def describe(file: Path, as_json: bool) -> None:
    """The levels of a parameter file: shapes, parameters of every network, cost of a forward pass, memory; and how
    large the decoded data is, or will be by a sample of the videos."""
    from pipeline import describe as description
    from pipeline.params import load_params

    params = load_params(file)
    found = description.describe(params) | {"data": description.describe_data(params, PATHS)}
    click.echo(json.dumps(found, indent=2) if as_json else description.render(found))


@cli.command(short_help="What is missing on this machine.")
def doctor() -> None:
    """What this machine has, what is missing, and how to get it. Exit code 1 if something necessary is missing."""
    from pipeline.doctor import examine

    checks = examine(PATHS)
    for check in checks:
        mark = "ok" if check.ok else "MISSING" if check.necessary else "note"
        click.echo(f"{mark:8}{check.name:14}{check.found}")
    sys.exit(1 if any(check.necessary and not check.ok for check in checks) else 0)


@cli.group(short_help="Measure data paths on this machine.")
def bench() -> None:
    """What the data's path costs on this machine, beside other ways, in CPU time."""


@bench.command("decode", short_help="Decoding a folder of videos.")
@click.argument("folder", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--params", "file", type=click.Path(path_type=Path), default=PATHS.params, show_default=True,
              help="Its views and its section decode.")  # fmt: skip
@click.option("--files", type=click.IntRange(min=1), default=16, show_default=True, help="At most.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--workers", type=click.IntRange(min=2), default=2, show_default=True, help="To compare with one.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def bench_decode(folder: Path | None, file: Path, files: int, rounds: int, workers: int, as_json: bool) -> None:
    """CPU time a frame, from the files of FOLDER (or data.root) to the finished pyramid, beside what decoding alone
    takes PyAV, ffmpeg and, where installed (`pip install -e ".[bench]"`), torchcodec and decord, with one thread each.

    \b
    hvg bench decode
    hvg bench decode /videos --params recipes/kinetics-48x128.yaml
    """
    from pipeline.bench import decode
    from pipeline.data.listing import data_root
    from pipeline.params import load_params

    params = load_params(file)
    root = folder or data_root(params, PATHS)
    found = decode.bench_decode(params, root, rounds=rounds, files=files, workers=workers)
    click.echo(json.dumps(found, indent=2) if as_json else decode.render(found))


@bench.command(short_help="Reading random windows.")
@click.option("--pyramid", type=click.Path(path_type=Path), default=PATHS.pyramid, show_default=True,
              help="A finished pyramid.")  # fmt: skip
@click.option("--synthetic", is_flag=True,
              help="Make one in a temporary folder: 64 raw videos of 72 frames, 0.5 GB.")  # fmt: skip
@click.option("--videos", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="The pyramid's data.root, to decode windows from the videos as well.")  # fmt: skip
@click.option("--windows", type=click.IntRange(min=1), default=1000, show_default=True, help="Windows a round.")
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def loader(pyramid: Path, synthetic: bool, videos: Path | None, windows: int, rounds: int, as_json: bool) -> None:
    """Random windows of the two highest views: clips a CPU second by a memory-mapped copy (at most 1 GiB in the
    temporary folder), by ViewReader, by zarr-python and, with --videos, from the source videos.

    Everything comes from the page cache: what a disk or a network costs is not measured.

    \b
    hvg bench loader
    hvg bench loader --synthetic --videos /videos
    """
    import tempfile

    from pipeline.bench.loader import bench_loader, render, write_synthetic

    with tempfile.TemporaryDirectory() as folder:
        if synthetic:
            pyramid = Path(folder) / "pyramid"
            write_synthetic(pyramid, videos, videos=64, frames=72, size=128)
        elif not (pyramid / "videos.parquet").is_file():
            raise UserError(
                f"--pyramid {pyramid}: no finished pyramid; `dvc repro decode` makes it, or try --synthetic"
            )
        found = bench_loader(pyramid, videos, windows=windows, rounds=rounds)
    click.echo(json.dumps(found, indent=2) if as_json else render(found))


def _terminate(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)  # an exception, so that what was started is stopped


def main() -> None:
    """The entry point: one line and exit code 2 for what the user can mend, a traceback for bugs."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's wish
            signal.signal(number, _terminate)
    try:
        code = cli.main(standalone_mode=False)
    except UserError as error:
        code = _say(str(error), 2)
    except click.exceptions.NoArgsIsHelpError as error:
        code = 0
        click.echo(error.format_message())
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "hvg"
        code = _say(f"{error.format_message()} (`{path} --help` explains)", 2)
    except click.ClickException as error:
        code = _say(error.format_message(), 1)
    except (click.Abort, KeyboardInterrupt):
        code = _say("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _say(message: str, code: int) -> int:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return code
