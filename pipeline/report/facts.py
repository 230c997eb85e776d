"""What a page says of the data, the code, the machine and the tracker."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import pandas as pd
import torch

from pipeline import checkout
from pipeline.data.outcome import read_left_out
from pipeline.paths import origin

DATABASE = "mlflow.db"
PACKAGES = ("torch", "zarr", "numcodecs", "av", "ffmpeg-python", "imageio-ffmpeg", "pandas", "dvc", "prefect", "mlflow")
# The pyramid's tables of what is not in it: title, and what its rows are.
LEFT_OUT = {
    "failed.csv": ("Could not be decoded", "left out, with the reason"),
    "short.csv": ("Too short", "left out, with their length"),
    "missing.csv": ("Missing", "annotated, but no such file"),
    "unlisted.csv": ("Not listed", "video files that belong to no split, with the reason"),
}


def splits(pyramid: Path) -> list[tuple[str, int, int, int]]:
    """Of each split of a pyramid its name, videos, frames of the top view and seconds."""
    return [
        (str(split), len(rows), int(rows["n_frames"].to_numpy().sum()), round(float(np.nansum(rows["seconds"]))))
        for split, rows in pd.read_parquet(pyramid / "videos.parquet").groupby("split", sort=True)
    ]


def left_out(pyramid: Path) -> list[tuple[str, str, pd.DataFrame]]:
    """The tables of LEFT_OUT, each with its title and what its rows are."""
    tables = {file: read_left_out(pyramid / file) for file in LEFT_OUT}
    return [(title, rows, tables[file]) for file, (title, rows) in LEFT_OUT.items()]


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


def environment(root: Path) -> dict[str, str]:
    """Code, versions and machine: what else a result depends on."""
    commit, edited = checkout.revision(root)
    return {
        "Git revision": f"{commit or 'unknown: no git checkout'}{' with uncommitted changes' if edited else ''}",
        "Python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "Platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
