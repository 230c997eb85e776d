"""hvg runs: what was run."""

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from pipeline.paths import Paths

if TYPE_CHECKING:
    from pipeline.tracking import Found

PATHS = Paths()
STATUSES = ("running", "finished", "failed", "killed")


class _Runs(click.Group):
    """A group whose unknown command is the id of a run."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return "show", _show, args


@click.group(cls=_Runs, invoke_without_command=True, subcommand_metavar="[ID]",
             short_help="What was run: compare, look into.")  # fmt: skip
@click.option("--name", metavar="WORD", help="Runs within reproductions that have this in their name: train, evaluate.")
@click.option("--level", type=click.IntRange(min=1), help="Runs of this level.")
@click.option("--status", type=click.Choice(STATUSES), help="Runs that are so.")
@click.option("--sort", metavar="METRIC", help="Least first. Default: oldest first.")
@click.option("--last", type=click.IntRange(min=1), help="As many of the newest. Default: 8, with --json all.")
@click.option("--json", "as_json", is_flag=True, help="All that is known of them, for programs.")
@click.pass_context
def runs(ctx: click.Context, as_json: bool, last: int | None, **chosen: Any) -> None:
    """What was run, side by side: status, the parameters that differ, and the last metrics.

    \b
    hvg runs                                  reproductions, newest on the right
    hvg runs --name train --level 2           how level 2 was trained, by reproduction
    hvg runs 3f2a                             one reproduction in full: its levels, parameters, metrics, files
    """
    if ctx.invoked_subcommand is not None:
        return
    from pipeline.runs.table import choose, side_by_side

    found = _found()
    if as_json:
        given = last is not None or any(value is not None for value in chosen.values())
        shown = choose(found, last=last, **chosen) if given else found
        click.echo(json.dumps([run.plain() for run in shown], indent=2))
        return
    if not found:
        click.echo("no runs yet; `hvg repro` makes some")
        return
    shown = choose(found, last=last or 8, **chosen)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else None
    click.echo(side_by_side(shown, found, width) if shown else "no such runs")


@click.command("show")
@click.argument("run_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def _show(run_id: str, as_json: bool) -> None:
    """One reproduction in full, by the beginning of its id or that of a run within it."""
    from pipeline import tracking
    from pipeline.runs.table import in_full, one, reproduction_of

    found = _found()
    parent, children = reproduction_of(one(found, run_id), found)
    together = [(run, tracking.files(run.id, PATHS)) for run in (parent, *children)]
    if as_json:
        click.echo(json.dumps([{**run.plain(), "files": files} for run, files in together], indent=2))
    else:
        click.echo(in_full(together))


def _found() -> "list[Found]":
    from pipeline.tracking import find_runs, send_waiting

    send_waiting(PATHS)
    return find_runs(PATHS)
