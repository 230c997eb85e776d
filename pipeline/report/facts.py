"""What a page says of the data, the code and the machine."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import pandas as pd
import torch

from pipeline import checkout
from pipeline.params import Params
from pipeline.paths import origin

DATABASE = "mlflow.db"
SHOWN = 100  # rows of a list of files; the rest is counted
PACKAGES = ("torch", "zarr", "numcodecs", "av", "ffmpeg-python", "imageio-ffmpeg", "pandas", "dvc", "prefect", "mlflow")


@dataclass(frozen=True)
class Listed:
    """A table of files that something is wrong with."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]]
    total: int


@dataclass(frozen=True)
class Decoded:
    """What became of the listed videos."""

    splits: list[tuple[str, int, int, int]]  # split, videos, frames of the top view, seconds
    lists: list[Listed]


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run of MLflow's. link: its page in MLflow; empty where no server shows it."""

    name: str
    status: str
    started: str
    id: str
    link: str


def decoded(pyramid: Path) -> Decoded:
    """The counts of a pyramid and the videos that are not in it."""
    videos = pd.read_parquet(pyramid / "videos.parquet")
    splits = [
        (str(split), len(rows), int(rows["n_frames"].to_numpy().sum()), round(float(np.nansum(rows["seconds"]))))
        for split, rows in videos.groupby("split", sort=True)
    ]
    lists = [
        _listed(pyramid / "failed.csv", "Could not be decoded", "left out, with the reason"),
        _listed(pyramid / "short.csv", "Too short", "left out, with their length"),
        _listed(pyramid / "missing.csv", "Missing", "annotated, but no such file"),
        _listed(pyramid / "unlisted.csv", "Not listed", "video files that belong to no split, with the reason"),
    ]
    return Decoded(splits, lists)


def run_link(store: str, run_id: str) -> str:
    """The page of a run on a tracking server, without the credentials of the server's URL; empty for other stores."""
    url = urlsplit(store)
    if url.scheme not in ("http", "https") or not url.hostname:
        return ""
    return urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path.rstrip("/") + "/", "", f"/runs/{run_id}"))


def opened_by(store: str, root: Path) -> str:
    """The command that shows the runs of the checkout's own database; empty for every other store.

    It is relative to the checkout: its place on this machine is nothing for a page that is shown around.
    """
    own = store == f"sqlite:///{origin(root).resolve() / DATABASE}"
    return f"mlflow ui --backend-store-uri sqlite:///{DATABASE}" if own else ""


def _listed(path: Path, title: str, note: str) -> Listed:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows = [[str(value) for value in row] for row in table.head(SHOWN).itertuples(index=False)]
    return Listed(title, note, list(table.columns), rows, len(table))


def levels(params: Params) -> list[str]:
    """The hierarchy in a few words a level."""
    return [
        f"{view.frames} frames of {view.size}×{view.size}"
        for view in (params.view(level) for level in range(1, params.n_levels + 1))
    ]


def environment(root: Path) -> dict[str, str]:
    """Code, versions and machine: what else a result depends on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "Git revision": revision(root),
        "Python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "Platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "GPU": device,
    }


def revision(root: Path) -> str:
    """The checkout's commit, and whether tracked files differ from it."""
    commit, edited = checkout.revision(root)
    return f"{commit}{' with uncommitted changes' if edited else ''}" if commit else "unknown: no git checkout"
