"""hvg dag: the graph as a flow."""

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
