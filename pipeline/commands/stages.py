"""hvg run: one stage, now."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.errors import UserError
from pipeline.paths import Paths

if TYPE_CHECKING:
    from pipeline.launch.clusters import SlurmCluster
    from pipeline.launch.job import Job


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a stage's job takes."""

    level: bool = False  # --level
    key: bool = False  # --key
    spread: bool = False  # several machines
    workers: bool = False  # processes of torchrun, one a GPU
    pool: bool = False  # one process, which has workers of its own
    reads: tuple[str, ...] = ()  # of what it reads, the files that are new whenever it is made anew; * for all levels
    kept: str = "the same command begins it anew"  # where it is stopped; empty: it says so itself


_SHARDS = "its finished shards are saved, the same command goes on with the others"
_PYRAMID = "data/pyramid/videos.parquet"
_CONDITIONS = "data/conditions/level-{below}/videos.parquet"
_BELOW, _SAMPLES = (f"data/samples/level-{level}/*/videos.parquet" for level in ("{below}", "*"))
_OWN, _TRAINED = (f"artifacts/level-{level}/generator.safetensors" for level in ("{level}", "*"))
STAGES = {
    "make-shapes": Stage(key=True, pool=True),
    "decode": Stage(spread=True, pool=True, reads=("{listing}",), kept=_SHARDS),
    "train": Stage(level=True, spread=True, workers=True, reads=(_PYRAMID, _CONDITIONS), kept=""),
    "generate": Stage(level=True, spread=True, workers=True, reads=(_PYRAMID, _CONDITIONS, _OWN), kept=_SHARDS),
    "sample": Stage(level=True, spread=True, workers=True, reads=(_PYRAMID, _BELOW, _OWN), kept=_SHARDS),
    "evaluate": Stage(spread=True, workers=True, reads=(_PYRAMID, _SAMPLES)),
    "report": Stage(reads=(_PYRAMID, _SAMPLES, _TRAINED)),
}
PATHS = Paths()


@click.command(short_help="Run one stage now.")
@click.argument("stage", type=click.Choice(list(STAGES)))
@click.option(
    "--level", type=click.IntRange(min=1), help="The level, for train, generate and sample. Default: DVC's stage's."
)
@click.option("--key", help="The entry of params' shapes, for make-shapes. Default: DVC's stage's.")
@click.option("--cluster", metavar="NAME", default="local", show_default=True, envvar="HVG_CLUSTER",
              help="Where it runs: a name in clusters.yaml, or this machine.")  # fmt: skip
@click.option("--nodes", type=click.IntRange(min=1), envvar="HVG_NODES",
              help="Its machines. Default: HVG_NODES, or as clusters.yaml says.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), envvar="HVG_WORKERS",
              help="Processes a machine. Default: HVG_WORKERS, or one a GPU, for decode one a core.")  # fmt: skip
@click.option("--retries", type=click.IntRange(min=0), default=1, show_default=True, envvar="HVG_RETRIES",
              help="How often a crash is tried again.")  # fmt: skip
@click.option("--from", "start", type=click.Path(path_type=Path), metavar="PATH",
              help="Begin from a checkpoint or published level, which becomes train's parameter.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print what would be started or submitted, and do nothing.")
def run(
    stage: str,
    level: int | None,
    key: str | None,
    cluster: str,
    nodes: int | None,
    workers: int | None,
    retries: int,
    start: Path | None,
    dry_run: bool,
) -> None:
    """Run one STAGE now: a Prefect flow around a torchrun job. Ctrl-C stops all of it.

    \b
    hvg run decode
    hvg run train --level 2 --workers 4
    hvg run train --level 2 --from /models/kinetics/level-2
    hvg run train --level 2 --cluster NAME --nodes 4 --dry-run
    """
    from pipeline.launch.clusters import load_cluster
    from pipeline.launch.flow import run_flow
    from pipeline.launch.job import JobCancelled, JobFailed
    from pipeline.launch.local import LocalLauncher
    from pipeline.launch.remote import ClusterLauncher
    from pipeline.launch.server import API_URL, prefect_server
    from pipeline.system.tether import die_with_parent

    where = load_cluster(cluster, PATHS.root)
    level, key = _which(stage, level, key)
    if start is not None:
        _begin_from(start, stage, level, dry_run)
    job = _job(stage, level, key, where, nodes, workers)
    name = " ".join([stage, *([f"level {level}"] if level else []), *([key] if key else [])])  # train level 2
    short = name.replace(" ", "-")
    if where is None:
        log = PATHS.state / "logs" / f"{short}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
        launcher = LocalLauncher(log)
    else:
        inputs = _inputs(stage, level, key)
        launcher = ClusterLauncher(cluster=where, root=PATHS.root.resolve(), stage=short, inputs=inputs)
    if dry_run:
        click.echo(launcher.preview(job), nl=False)
        return
    if "DVC_STAGE" in os.environ:
        # DVC, if killed, leaves its commands running. TERM would cancel a cluster's job: it runs on and is found again.
        die_with_parent(number=signal.SIGTERM if where is None else signal.SIGKILL)
    with prefect_server(PATHS.state) as url:
        os.environ[API_URL] = url
        os.environ.setdefault("PREFECT_HOME", str((PATHS.state / "prefect").resolve()))
        try:
            run_flow(
                job,
                launcher,
                stage=stage,
                name=name,
                labels=(f"level-{level}",) if level else (),
                retries=retries,
                kept=STAGES[stage].kept,
            )
        except JobFailed as error:
            click.echo(f"error: {name}: {error}; its log: {launcher.log}", err=True)
            sys.exit(143 if isinstance(error, JobCancelled) else 1)


def _which(stage: str, level: int | None, key: str | None) -> tuple[int | None, str | None]:
    """Level and key as given or, in a stage of DVC's, as in its name: train-level@2. A shell never sees them there.

    Raises UserError for what the stage does not take and params.yaml does not have, before anything starts.
    """
    from pipeline.params import load_params

    takes, params = STAGES[stage], load_params(PATHS.params)
    name, _, of = os.environ.get("DVC_STAGE", "").rpartition(":")[2].partition("@")
    if takes.level and level is None and name == f"{stage}-level":
        if not of.isdecimal():
            raise UserError(f"levels: {of!r} is no level; they are numbered from 1")
        level = int(of)
    if takes.key and key is None and name == stage:
        key = of
    for option, value, wanted in (("level", level, takes.level), ("key", key, takes.key)):
        if (value is not None) != wanted:
            raise UserError(f"--{option}: {stage} " + ("needs one" if wanted else "takes none"))
    if level is not None:
        params.of_level(level)
    if key is not None and key not in params.shapes:
        raise UserError(f"--key {key}: {PATHS.params} has the shapes {', '.join(params.shapes) or '(none)'}")
    return level, key


def _begin_from(path: Path, stage: str, level: int | None, dry_run: bool) -> None:
    """Write what a level begins from into params.yaml, as `hvg recipe --set` does, and say so."""
    from pipeline.data.store.reader import ViewReader
    from pipeline.params import load_params
    from pipeline.project.recipes import apply_recipe
    from pipeline.training.start import choose

    if stage != "train" or level is None or dry_run:
        raise UserError("--from: is for train, which writes it into params.yaml; not for a dry run")
    config = load_params(PATHS.params).level(level, len(ViewReader(PATHS.pyramid, level, "train").classes))
    setting = f"levels.{level}.training.start={json.dumps(asdict(choose(path, config, PATHS)))}"
    apply_recipe(PATHS, None, [setting])
    click.echo(f"{PATHS.params}: {setting}")


def _job(
    stage: str,
    level: int | None,
    key: str | None,
    cluster: "SlurmCluster | None",
    nodes: int | None,
    workers: int | None,
) -> "Job":
    """The stage's job on a cluster, or here. Raises UserError where the machines cannot share what it does."""
    from pipeline.launch.job import Job
    from pipeline.params import load_params

    takes, source = STAGES[stage], click.get_current_context().get_parameter_source
    for option, taken in (("nodes", takes.spread), ("workers", takes.workers or takes.pool)):
        if not taken and source(option) is click.core.ParameterSource.COMMANDLINE:  # HVG_… are meant for other stages
            raise UserError(f"--{option}: {stage} runs in one process; leave it out")
    if cluster is None and (nodes or 1) > 1:
        raise UserError(f"--nodes {nodes}: this is one machine; --cluster names one of clusters.yaml")
    machines = (nodes or cluster.nodes) if cluster and takes.spread else 1
    cores = workers or (cluster.cpus_per_task if cluster else None)
    given = {"--level": level, "--key": key, "--workers": cores if takes.pool else None}
    args = tuple(word for option, value in given.items() if value is not None for word in (option, str(value)))
    if not takes.workers:
        return Job(module=_module(stage), args=args, nodes=machines)
    batch = None if level is None else load_params(PATHS.params).of_level(level).training.batch
    processes = workers or ((cluster.gpus_per_node or 1) if cluster else _workers(batch))
    if batch is not None and batch % (machines * processes):
        raise UserError(
            f"levels.{level}.training.batch: {batch} clips cannot be shared equally by {machines * processes} "
            f"workers ({machines} x {processes}): change it, --nodes or --workers"
        )
    return Job(module=_module(stage), args=args, workers=processes, nodes=machines)


def _module(stage: str) -> str:
    return f"stages.{stage.replace('-', '_')}"


def _inputs(stage: str, level: int | None, key: str | None) -> str:
    """A hash of what a job makes: its stage, its parameters, its code and what it reads; not where it runs."""
    from pipeline.code_hash import code_hash
    from pipeline.params import load_params
    from pipeline.system.values import fingerprint

    loaded = load_params(PATHS.params)
    params = asdict(loaded)
    if level is not None:
        params["levels"] = {str(level): params["levels"][str(level)]}
    names = {"level": level, "below": (level or 1) - 1, "listing": loaded.data.listing}
    reads = [file.format(**names) for file in STAGES[stage].reads]
    files = [path for file in reads for path in (sorted(PATHS.root.glob(file)) if "*" in file else [PATHS.root / file])]
    stats = [(file.as_posix(), file.stat()) for file in files if file.is_file()]
    read = [(path, stat.st_size, stat.st_mtime_ns // 10**6) for path, stat in stats]  # without reading them
    return fingerprint(stage, level, key, params, code_hash(_module(stage)), read)


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
