"""hvg run: one stage, now."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.errors import UserError
from pipeline.paths import Paths

if TYPE_CHECKING:
    from pipeline.launch.clusters import Cluster
    from pipeline.launch.job import Job
    from pipeline.params import Params


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a stage's job takes."""

    level: bool = False  # --level
    key: bool = False  # --key
    spread: bool = False  # several machines
    workers: bool = False  # processes of torchrun, one a GPU
    pool: bool = False  # one process, which has workers of its own
    kept: str = "the same command begins it anew"  # where it is stopped; empty: it says so itself


_SHARDS = "its finished shards are saved, the same command goes on with the others"
STAGES = {
    "make-shapes": Stage(key=True, pool=True),
    "decode": Stage(spread=True, pool=True, kept=_SHARDS),
    "train": Stage(level=True, spread=True, workers=True, kept=""),
    "generate": Stage(level=True, spread=True, workers=True, kept=_SHARDS),
    "evaluate": Stage(spread=True, workers=True),
    "report": Stage(),
}
PATHS = Paths()


@click.command(short_help="Run one stage now.")
@click.argument("stage", type=click.Choice(list(STAGES)))
@click.option("--level", type=click.IntRange(min=1), help="The level, for train and generate. Default: DVC's stage's.")
@click.option("--key", help="The entry of params' shapes, for make-shapes. Default: DVC's stage's.")
@click.option("--cluster", metavar="NAME", default="local", show_default=True, envvar="HVG_CLUSTER",
              help="Where it runs: a name in clusters.yaml, or this machine.")  # fmt: skip
@click.option("--nodes", type=click.IntRange(min=1), envvar="HVG_NODES",
              help="Its machines. Default: HVG_NODES, or as clusters.yaml says.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), envvar="HVG_WORKERS",
              help="Processes a machine. Default: HVG_WORKERS, or one a GPU, for decode one a core.")  # fmt: skip
@click.option("--retries", type=click.IntRange(min=0), default=1, show_default=True, envvar="HVG_RETRIES",
              help="How often a crash is tried again.")  # fmt: skip
@click.option("--deadline", type=click.FloatRange(min=0, min_open=True), metavar="MIN", envvar="HVG_DEADLINE",
              help="Minutes that a try may take, without its time in a cluster's queue.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print what would be started or submitted, and do nothing.")
def run(
    stage: str,
    level: int | None,
    key: str | None,
    cluster: str,
    nodes: int | None,
    workers: int | None,
    retries: int,
    deadline: float | None,
    dry_run: bool,
) -> None:
    """Run one STAGE now: a Prefect flow around a torchrun job. Ctrl-C stops all of it.

    \b
    hvg run decode
    hvg run train --level 2 --workers 4
    hvg run train --level 2 --cluster NAME --nodes 4 --dry-run
    """
    from pipeline.launch.clusters import LocalCluster, load_cluster
    from pipeline.launch.flow import Plan, run_flow
    from pipeline.launch.job import JobCancelled, JobFailed
    from pipeline.launch.launchers import make_launcher, refuse_two
    from pipeline.launch.server import API_URL, prefect_server
    from pipeline.system.tether import die_with_parent

    where = load_cluster(cluster, PATHS.root)
    level, key = _of_dvc(stage, level, key)
    args = _stage_arguments(stage, level, key)
    job = _job(stage, args, level, where, nodes, workers)
    name = " ".join([stage, *([f"level {level}"] if level else []), *([key] if key else [])])  # train level 2
    short = name.replace(" ", "-")
    launcher = make_launcher(
        cluster,
        where,
        stage=short,
        inputs=_inputs(stage, level, key),
        state=PATHS.state,
        log=PATHS.state / "logs" / f"{short}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log",
    )
    if dry_run:
        click.echo(launcher.preview(job), nl=False)
        return
    if "DVC_STAGE" in os.environ:
        # DVC, if killed, leaves its commands running. TERM would cancel a cluster's job: it runs on and is found again.
        die_with_parent(number=signal.SIGTERM if isinstance(where, LocalCluster) else signal.SIGKILL)
    plan = Plan(
        stage=stage,
        name=name,
        tags=(f"level-{level}",) if level else (),
        retries=retries,
        kept=STAGES[stage].kept,
        deadline=None if deadline is None else deadline * 60,
    )
    with _alone(name), prefect_server(PATHS.state) as url:
        refuse_two(cluster, stage=short, state=PATHS.state)
        os.environ[API_URL] = url
        os.environ.setdefault("PREFECT_HOME", str((PATHS.state / "prefect").resolve()))
        try:
            run_flow(plan, job, launcher)
        except JobCancelled as error:
            click.echo(f"error: {name}: {error}; its log: {launcher.log}", err=True)
            sys.exit(error.code)
        except JobFailed as error:
            raise click.ClickException(f"{name}: {error}; its log: {launcher.log}") from error


def _job(
    stage: str, args: list[str], level: int | None, cluster: "Cluster", nodes: int | None, workers: int | None
) -> "Job":
    """The stage's job on a cluster. Raises UserError where the machines cannot share what it does."""
    from pipeline.launch.job import Job
    from pipeline.params import load_params

    takes, room = STAGES[stage], cluster.room(nodes)
    for option, taken in (("nodes", takes.spread), ("workers", takes.workers or takes.pool)):
        if not taken and _given(option):  # HVG_NODES and HVG_WORKERS are meant for the others
            raise UserError(f"--{option}: {stage} runs in one process; leave it out")
    machines = room.machines if takes.spread else 1
    module = _module(stage)
    if takes.pool:
        pool = workers or room.cores
        return Job(module=module, args=(*args, *(("--workers", str(pool)) if pool else ())), nodes=machines)
    if not takes.workers:
        return Job(module=module, args=tuple(args))
    batch = None if level is None else load_params(PATHS.params).of_level(level).training.batch
    processes = workers or room.workers or _workers(batch)
    if batch is not None and batch % (machines * processes):
        raise UserError(
            f"levels.{level}.training.batch: {batch} clips cannot be shared equally by {machines * processes} "
            f"workers ({machines} x {processes}): change it, --nodes or --workers"
        )
    return Job(module=module, args=tuple(args), workers=processes, nodes=machines)


def _module(stage: str) -> str:
    return f"stages.{stage.replace('-', '_')}"


def _inputs(stage: str, level: int | None, key: str | None) -> str:
    """A hash of what a job makes: its stage, its parameters, its code and what it reads; not where it runs."""
    from pipeline.code_hash import code_hash
    from pipeline.params import fingerprint, load_params

    loaded = load_params(PATHS.params)
    read = [_stamp(file) for file in _upstream(stage, level, loaded)]
    params = asdict(loaded)
    if level is not None:
        params["levels"] = {key: params["levels"][key] for key in params["levels"] if int(key) == level}
    return fingerprint(stage, level, key, params, code_hash(_module(stage)), read)


def _upstream(stage: str, level: int | None, params: "Params") -> list[Path]:
    """Of what a stage reads, the files that are new whenever it is made anew."""
    pyramid = PATHS.pyramid / "videos.parquet"
    if stage == "decode":
        return [PATHS.root / params.data.listing]
    if level is not None:
        below = [PATHS.samples(level - 1) / "videos.parquet"] if level > 1 else []
        own = [PATHS.artifact(level) / "generator.safetensors"] if stage == "generate" else []
        return [pyramid, *below, *own]
    if stage in ("evaluate", "report"):
        last = int(params.last)
        artifact = [PATHS.artifact(last) / "generator.safetensors"] if stage == "report" else []
        return [pyramid, PATHS.samples(last) / "videos.parquet", *artifact]
    return []


def _stamp(file: Path) -> tuple[str, int, int] | None:
    """What tells a file from a later one of its name, without reading it: path, bytes, time in milliseconds."""
    if not file.is_file():
        return None
    found = file.stat()
    return file.as_posix(), found.st_size, found.st_mtime_ns // 10**6


def _of_dvc(stage: str, level: int | None, key: str | None) -> tuple[int | None, str | None]:
    """Level and key as given or, in a stage of DVC's, as in its name: train-level@2. A shell never sees them there."""
    name, _, of = os.environ.get("DVC_STAGE", "").rpartition(":")[2].partition("@")
    if STAGES[stage].level and level is None and name == f"{stage}-level":
        if not of.isdecimal():
            raise UserError(f"levels: {of!r} is no level; they are numbered from 1")
        return int(of), key
    if STAGES[stage].key and key is None and name == stage:
        return level, of
    return level, key


def _stage_arguments(stage: str, level: int | None, key: str | None) -> list[str]:
    """The stage's arguments, checked against params.yaml before anything starts."""
    from pipeline.params import load_params

    params = load_params(PATHS.params)
    for option, value, wanted in (("level", level, STAGES[stage].level), ("key", key, STAGES[stage].key)):
        if (value is not None) != wanted:
            raise UserError(f"--{option}: {stage} " + ("needs one" if wanted else "takes none"))
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


def _workers(batch: int | None) -> int:
    """As many as there are GPUs and as share a batch equally; 1 without any."""
    return max((count for count in range(1, _gpus() + 1) if (batch or count) % count == 0), default=1)


def _gpus() -> int:
    """How many GPUs this machine has for us, found without importing torch."""
    if not (command := shutil.which("nvidia-smi")):
        return 0
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([device for device in visible.split(",") if device.strip()])
    return subprocess.run([command, "-L"], capture_output=True, text=True, check=False).stdout.count("GPU ")


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
