"""hvg runs: what was run."""

import json

import click

from pipeline.paths import Paths

PATHS = Paths()


@click.command(short_help="Compare what was run.")
@click.option("--json", "as_json", is_flag=True, help="All of it, for programs.")
def runs(as_json: bool) -> None:
    """What was run, newest last: status, the parameters that differ, and the last metrics, side by side."""
    from pipeline.runs.table import runs_table
    from pipeline.tracking import find_runs

    found = find_runs(PATHS)
    if as_json:
        click.echo(json.dumps([run.plain() for run in found], indent=2))
    else:
        click.echo(runs_table(found) if found else "no runs yet; `hvg repro` makes some")
