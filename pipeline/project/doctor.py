"""What a machine has, what is missing, and how to get it."""

import platform
import shutil
import sys
from dataclasses import dataclass

from pipeline import checkout
from pipeline.errors import UserError
from pipeline.metrics.weights import evaluation_weights
from pipeline.params import Params, load_params
from pipeline.paths import Paths

FREE_GB = 5.0  # below which a run is likely to end early


@dataclass(frozen=True)
class Check:
    """One thing looked at; `found` says what there is or how to get it."""

    name: str
    ok: bool
    found: str
    necessary: bool = True


def examine(paths: Paths) -> list[Check]:
    """Look at what a run needs and `make .venv/.done` does not bring, in the order in which one would mend it."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    git, repository = shutil.which(checkout.GIT), checkout.in_git(paths.root)
    found = (
        "not found; dvc needs it: install git"
        if git is None
        else git
        if repository
        else "no repository: no experiments"
    )
    checks = [
        Check("python", True, f"{platform.python_version()} at {sys.executable}"),
        Check("torch", True, f"{torch.__version__}, {', '.join(gpus) if gpus else 'no GPU: small recipes only'}"),
        _ffmpeg(),
        Check("git", git is not None and repository, found, necessary=git is None),
    ]
    try:
        params = load_params(paths.params)
    except UserError as error:
        return [*checks, Check("params", False, str(error))]
    checks.append(Check("params", True, f"{paths.params}, {params.n_levels} levels"))
    return [*checks, *_data(params, paths), _weights(params, paths), _disk(params, paths)]


def _ffmpeg() -> Check:
    from pipeline.data.video import ffmpeg

    try:
        return Check("ffmpeg", True, ffmpeg.version())
    except UserError as error:
        return Check("ffmpeg", False, str(error))


def _weights(params: Params, paths: Paths) -> Check:
    try:
        files = [str(file) for file in evaluation_weights(params, paths.root).values() if file]
    except UserError as error:
        return Check("i3d", False, str(error))
    return Check("i3d", True, ", ".join(files) or "no weights: a random network measures, no FVD")


def _disk(params: Params, paths: Paths) -> Check:
    """Whether the pyramid that is still to be decoded fits beside what training writes. Necessary where it hardly can.

    DVC's cache takes no room of its own where it lies on the same disk, as .dvc/config has it by default.
    """
    from jinja2.filters import do_filesizeformat as text

    from pipeline.project.describe import describe_data

    data, codec = describe_data(params, paths), params.decode.codec
    free, reserve = shutil.disk_usage(paths.root).free, FREE_GB * 1e9
    if data["state"] != "predicted" or params.decode.store is not None:
        return Check("disk", free >= reserve, f"{text(free)} free; below {FREE_GB:g} GB clear some", necessary=False)
    size, error = sum(data["sizes"][codec]["bytes"].values()), data["spread"][codec] or 0
    found = f"{text(free)} free at {paths.root.resolve()}, data/pyramid takes about {text(size)}"
    if free >= size + reserve:
        return Check("disk", True, found)
    way_out = "; clear some, or make it smaller: decode.codec=jpeg, decode.max_frames, or elsewhere: decode.store"
    return Check("disk", False, found + way_out, necessary=free < size - 2 * error)


def _data(params: Params, paths: Paths) -> list[Check]:
    from pipeline.data.layouts.listing import list_root, read_listing
    from pipeline.data.layouts.walk import listing_bytes

    listing = paths.root / params.data.listing
    if params.rendered:
        return [Check("data", True, f"{params.data.root}, which make-shapes renders")]
    try:
        if listing.exists():
            read_listing(listing)  # raises where `hvg index` would not replace it
        now = listing_bytes(list_root(params, paths))
    except UserError as error:
        return [Check("data", False, str(error))]
    current = listing.is_file() and listing.read_bytes() == now
    return [
        Check("data", True, f"data.root {params.data.root}"),
        Check("listing", current, f"{params.data.listing}{'' if current else ' is out of date: `hvg index` writes it'}",
              necessary=not listing.is_file()),
    ]  # fmt: skip
