"""hvg dag and hvg deploy: the graph as a flow, its stages as deployments."""

import os
import shlex
import sys

import click

from pipeline.paths import Paths

PATHS = Paths()


@click.command(
    context_settings={"ignore_unknown_options": True}, short_help="Run stages that are out of date, side by side."
)
@click.option("--jobs", "-j", type=click.IntRange(min=1), default=4, show_default=True, envvar="HVG_JOBS",
              help="Stages at a time.")  # fmt: skip
@click.argument("targets", nargs=-1, type=click.UNPROCESSED)
def dag(jobs: int, targets: tuple[str, ...]) -> None:
    """`hvg repro` as one Prefect flow: stages that do not depend on each other run side by side.

    Targets and options are those of `dvc repro`. A stage that fails keeps those from running that depend on it, and no
    others. With options that need one process (-i, --dry, -s, --force-downstream) it is `hvg repro`.

    \b
    hvg dag
    hvg dag -j 2 train-level@2
    """
    from pipeline.commands.stages import _check_inputs
    from pipeline.launch.dag import run_dag

    _check_inputs()
    sys.exit(run_dag(PATHS.state, targets, jobs))


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
