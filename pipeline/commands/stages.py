"""hvg run and hvg repro: stages, one or all of them."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import click

from pipeline.errors import UserError
from pipeline.paths import Paths

STAGES = ("make-shapes", "decode", "train", "generate", "evaluate", "report")
PER_LEVEL = ("train", "generate")
POOLED = ("make-shapes", "decode")  # one process, which has workers of its own
PATHS = Paths()


@click.command(short_help="Run one stage now.")
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


@click.command(context_settings={"ignore_unknown_options": True}, short_help="Run every stage that is out of date.")
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
