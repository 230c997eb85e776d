"""hvg repro and hvg deploy: all stages that are out of date, or each where Prefect wants it."""

import contextlib
import os
import shlex
import sys

import click

from pipeline.errors import UserError
from pipeline.paths import Paths

PATHS = Paths()


@click.command(context_settings={"ignore_unknown_options": True}, short_help="Run every stage that is out of date.")
@click.argument("targets", nargs=-1, type=click.UNPROCESSED)
def repro(targets: tuple[str, ...]) -> None:
    """`dvc repro` with a Prefect server for its time, if none answers at PREFECT_API_URL. Options go to dvc, which
    cannot ask (--interactive) here.

    \b
    hvg repro
    hvg repro train-level@2
    """
    from pipeline.launch.repro import run_dvc_repro
    from pipeline.system.processes import start

    _check_inputs()
    click.echo("brings every stage that is out of date up to date; Ctrl-C stops it, the same command goes on", err=True)
    with contextlib.ExitStack() as ending:
        if not targets:  # how long everything takes, from a process beside this one: counting needs torch
            counting = ending.enter_context(start([sys.executable, "-m", "pipeline.project.duration"]))
            ending.callback(counting.terminate)
        code = run_dvc_repro(PATHS.state, targets)
    sys.exit(code)


def _check_inputs() -> None:
    """Whether what params.yaml names is there, and nothing in the way: before hours of training, not after them."""
    from pipeline.data.shapes_files import check_replaceable
    from pipeline.metrics.weights import evaluation_weights
    from pipeline.params import load_params

    params = load_params(PATHS.params)
    if not params.rendered and not (PATHS.root / params.data.listing).is_file():
        raise UserError(f"data.listing: {params.data.listing} does not exist; `hvg index` writes it")
    for key in params.shapes:
        check_replaceable(key, PATHS)  # before DVC removes what is there
    evaluation_weights(params, PATHS.root)


@click.command(short_help="Let Prefect's pages start stages.")
@click.option("--pool", required=True, metavar="NAME", help="The work pool; made where there is none of the name.")
def deploy(pool: str) -> None:
    """Make a Prefect deployment of each stage, which workers of a pool run in this checkout.

    \b
    export PREFECT_API_URL=http://127.0.0.1:4200/api     a server that lasts: prefect server start
    hvg deploy --pool gpu
    prefect worker start --pool gpu                      where stages are to run
    prefect deployment run hvg-stage/train-level@2       or a button on its pages
    """
    home = (PATHS.state / "prefect").resolve()
    home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PREFECT_HOME", str(home))
    from pipeline.launch.deployment import deploy as make

    for name in make(PATHS.root, pool):
        click.echo(f"prefect deployment run {name}")
    click.echo(f"a worker runs them: prefect worker start --pool {shlex.quote(pool)}")
