"""hvg runs: what was run."""

import json
import math
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.paths import Paths

if TYPE_CHECKING:
    from pipeline.runs.store import TrackedRun

PATHS = Paths()
STATUSES = ("running", "finished", "failed", "killed")


class _Runs(click.Group):
    """A group whose unknown command is the id of a run."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return "show", _show, args


@click.group(cls=_Runs, invoke_without_command=True, subcommand_metavar="[ID | compare A B]",
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
    hvg runs compare 3f2a 91bc                a page with two of them side by side
    """
    if ctx.invoked_subcommand is not None:
        given = [name for name, value in {"last": last, "json": as_json or None, **chosen}.items() if value is not None]
        if given:
            raise click.UsageError(f"--{given[0]} chooses among all runs: after an id it has no meaning, or comes last")
        return
    from pipeline.runs.table import choose, side_by_side

    known = _runs()
    if as_json:
        given = last is not None or any(value is not None for value in chosen.values())
        shown = choose(known, last=last, **chosen) if given else known
        click.echo(json.dumps([_plain(run) for run in shown], indent=2))
        return
    if not known:
        click.echo("no runs yet; `hvg repro` makes some")
        return
    shown = choose(known, last=last or 8, **chosen)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else None
    click.echo(side_by_side(shown, known, width) if shown else "no such runs")


@click.command("show")
@click.argument("run_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def _show(run_id: str, as_json: bool) -> None:
    """One reproduction in full, by the beginning of its id or that of a run within it."""
    from pipeline.runs.store import Store
    from pipeline.runs.table import in_full, one, reproduction_of

    known = _runs()
    parent, children = reproduction_of(one(known, run_id), known)
    together = [(run, list(Store(PATHS).files(run.id))) for run in (parent, *children)]
    if as_json:
        click.echo(json.dumps([{**_plain(run), "files": files} for run, files in together], indent=2))
    else:
        click.echo(in_full(together))


@runs.command(short_help="A page with two reproductions side by side.")
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports/compare"), show_default=True,
              help="The folder that the page is written to.")  # fmt: skip
def compare(left: str, right: str, out: Path) -> None:
    """A page with two reproductions side by side, by the beginnings of their ids: parameters, metrics, samples."""
    from pipeline.report.compare import compare_page
    from pipeline.runs.store import Store
    from pipeline.runs.table import one, reproduction_of

    known = _runs()
    parents = [reproduction_of(one(known, run_id), known)[0] for run_id in (left, right)]
    click.echo(f"the page: {compare_page((parents[0], parents[1]), known, Store(PATHS), out)}")


def _runs() -> "list[TrackedRun]":
    from pipeline.runs.store import Store
    from pipeline.runs.tracking import send_waiting

    store = Store(PATHS)
    send_waiting(store)
    return store.runs()


def _plain(run: "TrackedRun") -> dict[str, Any]:
    """For JSON, which knows no NaN: what is no finite number is None."""
    metrics = {name: value if math.isfinite(value) else None for name, value in run.metrics.items()}
    return {**asdict(run), "start": run.start.isoformat(), "metrics": metrics}
