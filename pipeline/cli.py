"""The command line. Heavy libraries are imported by the commands that need them: `hvg --help` answers at once."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import click

from pipeline.errors import UserError
from pipeline.paths import Paths

STAGES = ("make-shapes", "decode", "train", "generate", "evaluate", "report")
PER_LEVEL = ("train", "generate")
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
              help="Processes. Default: HVG_WORKERS, or one a GPU (train, generate), else 1.")  # fmt: skip
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
    if "DVC_STAGE" in os.environ:
        die_with_parent()  # DVC, if killed, leaves its commands running
    name = " ".join([stage, *(a.removeprefix("--") for a in args)])  # train level 2
    log = PATHS.state / "logs" / f"{name.replace(' ', '-')}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    job = Job(module=f"stages.{stage.replace('-', '_')}", args=tuple(args), workers=workers or _workers(stage))
    plan = Plan(
        stage=stage,
        name=name,
        tags=(f"level-{level}",) if level else (),
        retries=retries,
        deadline=None if deadline is None else deadline * 60,
    )
    with prefect_server(PATHS.state) as url:
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


def _workers(stage: str) -> int:
    """One a GPU for training and generating, found without importing torch; 1 elsewhere."""
    if stage not in PER_LEVEL or not (command := shutil.which("nvidia-smi")):
        return 1
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return max(1, len([device for device in visible.split(",") if device.strip()]))
    listed = subprocess.run([command, "-L"], capture_output=True, text=True, check=False)
    return max(1, listed.stdout.count("GPU "))


@cli.command(context_settings={"ignore_unknown_options": True}, short_help="Run every stage that is out of date.")
@click.argument("targets", nargs=-1, type=click.UNPROCESSED)
def repro(targets: tuple[str, ...]) -> None:
    """`dvc repro` with a Prefect server for its time, if none answers at PREFECT_API_URL. Options go to dvc.

    \b
    hvg repro
    hvg repro train-level@2
    """
    from pipeline.launch.repro import run_dvc_repro

    sys.exit(run_dvc_repro(PATHS.state, targets))


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
    if not root.is_dir() and params.data.root not in {f"data/{key}" for key in params.shapes}:
        click.echo(f"data.root {params.data.root} does not exist yet: put the videos there and run `hvg index`, "
                   "or give another by `hvg recipe --set data.root=PATH`")  # fmt: skip
        return
    _index()


@cli.command(short_help="List the videos of data.root again.")
def index() -> None:
    """Look through data.root again and write the listing that decode depends on."""
    _index()


def _index() -> None:
    from pipeline.data.listing import is_video, prepare_listing, read_listing
    from pipeline.params import load_params

    params = load_params(PATHS.params)
    if params.data.root in {f"data/{key}" for key in params.shapes}:
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
    """The levels of a parameter file: shapes, parameters of every network, cost of a forward pass, memory."""
    from pipeline import describe as description
    from pipeline.params import load_params

    found = description.describe(load_params(file))
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
