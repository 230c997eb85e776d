"""What a machine has, what is missing, and how to get it."""

import importlib.metadata
import importlib.util
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.launch.server import API_URL, answers
from pipeline.params import Params, load_params
from pipeline.paths import Paths
from pipeline.tracking import store_uri

FREE = 5.0  # GB below which a run is likely to end early


@dataclass(frozen=True)
class Check:
    """One thing looked at; `found` says what there is or how to get it."""

    name: str
    ok: bool
    found: str
    necessary: bool = True


def examine(paths: Paths) -> list[Check]:
    """Look at everything that a run needs, in the order in which one would mend it."""
    checks = [_python(), _torch(), _ffmpeg(), *map(_package, ("dvc", "prefect", "mlflow")), _git(), _server()]
    checks += [_store(paths), _disk(paths)]
    try:
        params = load_params(paths.params)
    except UserError as error:
        return [*checks, Check("params", False, str(error))]
    return [*checks, Check("params", True, f"{paths.params}, {params.n_levels} levels"), *_data(params, paths)]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= (3, 11), f"{version} at {sys.executable}; 3.11 or newer is needed")


def _torch() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("torch", False, "not installed; `make .venv/.done` installs everything")
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check("torch", True, f"{torch.__version__}, {', '.join(gpus) if gpus else 'no GPU: small recipes only'}")


def _ffmpeg() -> Check:
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        return Check("ffmpeg", False, "not installed; `make .venv/.done` installs imageio-ffmpeg, which carries it")
    import imageio_ffmpeg

    try:
        binary = imageio_ffmpeg.get_ffmpeg_exe()
        said = subprocess.run([binary, "-version"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return Check("ffmpeg", False, f"{error}; point IMAGEIO_FFMPEG_EXE at an ffmpeg that runs")
    return Check("ffmpeg", True, f"{' '.join(said.split()[:3])} at {binary}")


def _package(name: str) -> Check:
    try:
        return Check(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, "not installed; `make .venv/.done` installs everything")


def _git() -> Check:
    found = shutil.which("git")
    return Check("git", found is not None, found or "not found; dvc needs it: install git")


def _server() -> Check:
    url = os.environ.get(API_URL)
    if not url:
        return Check("server", True, f"Prefect's: {API_URL} is not set; a run starts its own", necessary=False)
    return Check("server", answers(url), f"Prefect's at {url}; where it does not answer, a run starts its own", False)


def _store(paths: Paths) -> Check:
    uri = store_uri(paths)
    if not uri.startswith("sqlite:///"):
        return Check("mlflow store", True, f"{uri}, as MLFLOW_TRACKING_URI says", necessary=False)
    file = Path(uri.removeprefix("sqlite:///"))
    if not file.exists():
        writable = os.access(file.parent, os.W_OK)
        return Check("mlflow store", writable, f"{file}, made by the first run" if writable else f"{file}: no writing")
    connection = sqlite3.connect(file, timeout=5)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
    except sqlite3.Error as error:
        return Check("mlflow store", False, f"{file}: {error}; move it away or set MLFLOW_TRACKING_URI")
    finally:
        connection.close()
    return Check("mlflow store", True, str(file))


def _disk(paths: Paths) -> Check:
    free = shutil.disk_usage(paths.root.resolve()).free / 1e9
    return Check("disk", free >= FREE, f"{free:.0f} GB free; below {FREE:g} GB clear some", necessary=False)


def _data(params: Params, paths: Paths) -> list[Check]:
    from pipeline.data.listing import list_root
    from pipeline.data.walk import listing_bytes

    listing = paths.root / params.data.listing
    if params.data.root in {f"data/{key}" for key in params.shapes}:
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
