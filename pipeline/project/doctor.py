"""What a machine has, what is missing, and how to get it."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline import checkout
from pipeline.errors import UserError
from pipeline.launch.server import API_URL, answers
from pipeline.params import Params, load_params
from pipeline.paths import Paths
from pipeline.runs.store import Store
from pipeline.system.urls import without_secrets

NOT_INSTALLED = "not installed; `make .venv/.done` installs everything"
FREE_GB = 5.0  # below which a run is likely to end early


@dataclass(frozen=True)
class Check:
    """One thing looked at; `found` says what there is or how to get it."""

    name: str
    ok: bool
    found: str
    necessary: bool = True


def examine(paths: Paths) -> list[Check]:
    """Look at everything that a run needs, in the order in which one would mend it."""
    checks = [Check("python", True, f"{platform.python_version()} at {sys.executable}"), _torch(), _ffmpeg()]
    checks += map(_package, ("dvc", "prefect", "mlflow"))
    git = shutil.which(checkout.GIT)
    checks.append(Check("git", git is not None, git or "not found; dvc needs it: install git"))
    checks += [_server(), _store(paths)]
    try:
        params = load_params(paths.params)
    except UserError as error:
        return [*checks, Check("params", False, str(error))]
    checks.append(Check("params", True, f"{paths.params}, {params.n_levels} levels"))
    return [*checks, *_data(params, paths), *_disks(params, paths)]


def _package(name: str) -> Check:
    try:
        return Check(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, NOT_INSTALLED)


def _torch() -> Check:
    try:
        import torch
    except ImportError:
        return Check("torch", False, NOT_INSTALLED)

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check("torch", True, f"{torch.__version__}, {', '.join(gpus) if gpus else 'no GPU: small recipes only'}")


def _ffmpeg() -> Check:
    try:
        from pipeline.data.video import ffmpeg

        return Check("ffmpeg", True, ffmpeg.version())
    except UserError as error:
        return Check("ffmpeg", False, str(error))
    except ImportError:
        return Check("ffmpeg", False, NOT_INSTALLED)


def _server() -> Check:
    url = os.environ.get(API_URL)
    if not url:
        return Check("server", True, f"Prefect's: {API_URL} is not set; a run starts its own", necessary=False)
    shown = without_secrets(url, url)
    return Check("server", answers(url), f"Prefect's at {shown}; where it does not answer, a run starts its own", False)


def _store(paths: Paths) -> Check:
    uri = Store(paths).shown
    if not uri.startswith("sqlite:///"):
        return Check("mlflow store", True, f"{uri}, as MLFLOW_TRACKING_URI says", necessary=False)
    file = Path(uri.removeprefix("sqlite:///"))
    if not file.exists():
        writable = os.access(file.parent, os.W_OK)
        return Check("mlflow store", writable, f"{file}, made by the first run" if writable else f"{file}: no writing")
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=5)) as connection:
            connection.execute("BEGIN IMMEDIATE")  # rolled back
    except sqlite3.Error as error:
        return Check("mlflow store", False, f"{file}: {error}; move it away or set MLFLOW_TRACKING_URI")
    return Check("mlflow store", True, str(file))


def _disks(params: Params, paths: Paths) -> list[Check]:
    """Whether the pyramid that is still to be decoded fits, here and where DVC caches it."""
    from dvc.config import Config

    size, error = _pyramid_size(params, paths)
    here = paths.root.resolve()
    settings = Config(str(here / ".dvc"))["cache"]
    cache, links = Path(settings.get("dir", here / ".dvc" / "cache")), set(settings.get("type", ["reflink", "copy"]))
    apart = _device(here) != _device(cache)
    copies = 1 if apart or links & {"hardlink", "symlink"} else 2
    checks = [_disk("disk", here, copies * size, copies * error, " with DVC's copy of it" if copies > 1 else "")]
    if apart and size:
        checks.append(_disk("disk of cache", cache, size, error))
    return checks


def _disk(name: str, folder: Path, size: float, error: float, what: str = "") -> Check:
    """Whether `size` bytes, known up to `error`, fit beside what training writes. Necessary where they hardly can."""
    from jinja2.filters import do_filesizeformat as text

    free, reserve = shutil.disk_usage(_existing(folder)).free, FREE_GB * 1e9
    if not size:
        return Check(name, free >= reserve, f"{text(free)} free; below {FREE_GB:g} GB clear some", necessary=False)
    found = f"{text(free)} free at {folder}, data/pyramid{what} takes about {text(size)}"
    if free >= size + reserve:
        return Check(name, True, found)
    way_out = "; clear some, or make it smaller: decode.codec=jpeg, decode.max_frames, or elsewhere: decode.store"
    return Check(name, False, found + way_out, necessary=free < size - 2 * error)


def _pyramid_size(params: Params, paths: Paths) -> tuple[float, float]:
    """Bytes that decode will write here, and their standard error; 0 where it has, does not or it is not known."""
    from pipeline.data.predict import finished_table, listed_videos, predict

    if params.decode.store is not None:
        return 0, 0
    try:
        videos = listed_videos(params, paths)
        if finished_table(params, paths, len(videos)) is not None:
            return 0, 0
        found = predict(params, paths, videos, [params.decode.codec])
    except UserError:  # the checks of the data say it
        return 0, 0
    return sum(found.sizes[params.decode.codec].bytes.values()), found.spread[params.decode.codec] or 0


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _device(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _data(params: Params, paths: Paths) -> list[Check]:
    from pipeline.data.layouts.listing import list_root
    from pipeline.data.layouts.walk import listing_bytes

    listing = paths.root / params.data.listing
    if params.rendered:
        return [Check("data", True, f"{params.data.root}, which make-shapes renders")]
    try:
        now = listing_bytes(list_root(params, paths))
    except UserError as error:
        return [Check("data", False, str(error))]
    current = listing.is_file() and listing.read_bytes() == now
    return [
        Check("data", True, f"data.root {params.data.root}"),
        Check("listing", current, f"{params.data.listing}{'' if current else ' is out of date: `hvg index` writes it'}",
              necessary=not listing.is_file()),
    ]  # fmt: skip
