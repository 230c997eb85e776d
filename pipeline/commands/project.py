"""hvg recipe, index, describe, summary and doctor: what will be run, on what."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.paths import Paths

if TYPE_CHECKING:
    from pipeline.params import Params

PATHS = Paths()


@click.command(short_help="Choose or change the active recipe, params.yaml.")
@click.argument("name", required=False)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A value in YAML; may be repeated.")
@click.option("--force", is_flag=True, help="Replace a params.yaml that was edited, and keep it in .hvg/set-aside.")
@click.option("--list", "listing", is_flag=True, help="Name the recipes.")
def recipe(name: str | None, settings: tuple[str, ...], force: bool, listing: bool) -> None:
    """Make recipes/NAME.yaml the active params.yaml; without NAME change params.yaml as it is.

    \b
    hvg recipe --list
    hvg recipe folder --set data.root=/videos
    hvg recipe --set levels.2.training.iterations=2000
    """
    from pipeline.data.layouts.listing import data_root, listing_of
    from pipeline.project.recipes import apply_recipe, recipe_names, set_aside

    if listing or (name is None and not settings):
        click.echo("\n".join(recipe_names(PATHS)))
        return
    listed: list[bytes] = []  # before params.yaml changes: a refusal leaves it as it is

    def look(params: "Params") -> None:
        if not params.rendered and data_root(params, PATHS).is_dir():
            listed.append(listing_of(params, PATHS))

    params = apply_recipe(PATHS, name, settings, force=force, check=look)
    click.echo(f"{PATHS.params}: {name or 'changed'}{''.join(f', {setting}' for setting in settings)}")
    for old, new in set_aside(PATHS, params):
        click.echo(f"{old} is no level of this recipe: it lies in {new} now")
    if not params.rendered and not listed:
        click.echo(f"data.root {params.data.root} does not exist yet: put the videos there and run `hvg index`, "
                   "or give another by `hvg recipe --set data.root=PATH`")  # fmt: skip
        return
    _index(*listed)


@click.command(short_help="List the videos of data.root again.")
def index() -> None:
    """Look through data.root again and write the listing that decode depends on."""
    _index()


def _index(content: bytes | None = None) -> None:
    from pipeline.checkout import track
    from pipeline.data.layouts.listing import prepare_listing, read_listing
    from pipeline.data.layouts.walk import videos_of
    from pipeline.params import load_params

    params = load_params(PATHS.params)
    if params.rendered:
        click.echo(f"{params.data.root}: make-shapes renders it and writes the listing; next: hvg repro")
        return
    changed, listing = prepare_listing(params, PATHS, content), PATHS.root / params.data.listing
    track(PATHS.root, listing)
    files = read_listing(listing)
    videos = len(videos_of(files["path"].tolist()))
    state = "written" if changed else "up to date"
    size = sum(files["size"]) / 1e9
    click.echo(f"{params.data.listing}: {state}, {videos} videos, {size:.2f} GB; next: hvg repro")


@click.command(short_help="Levels, networks and cost of a parameter file.")
@click.option("--params", "file", type=click.Path(path_type=Path), default=PATHS.params, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def describe(file: Path, as_json: bool) -> None:
    """The levels of a parameter file: shapes, parameters of every network, cost of a forward pass, memory; and how
    large the decoded data is, or will be by a sample of the videos."""
    from pipeline.params import load_params

    params = load_params(file)
    click.echo(f"counting the networks of {file} …", err=True)
    from pipeline.project import describe as description

    counted = description.describe(params, full_length=as_json) | {"data": description.describe_data(params, PATHS)}
    click.echo(json.dumps(counted, indent=2) if as_json else description.description_text(counted))


@click.command(short_help="A page over the decoded videos.")
def summary() -> None:
    """Write reports/data.html: what became of every video, classes, lengths and training windows."""
    from pipeline.params import load_params
    from pipeline.report.data import data_page

    click.echo(f"the page: {data_page(load_params(PATHS.params), PATHS)}")


@click.command(short_help="What is missing on this machine.")
def doctor() -> None:
    """What this machine has, what is missing, and how to get it. Exit code 1 if something necessary is missing."""
    from pipeline.project.doctor import examine

    checks = examine(PATHS)
    for check in checks:
        mark = "ok" if check.ok else "MISSING" if check.necessary else "note"
        click.echo(f"{mark:8}{check.name:14}{check.found}")
    sys.exit(1 if any(check.necessary and not check.ok for check in checks) else 0)
