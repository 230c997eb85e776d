"""What a page says of the data, the code, the machine and the tracker."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from pipeline import checkout
from pipeline.data.store.opening import read_table
from pipeline.errors import reading
from pipeline.paths import origin

DATABASE = "mlflow.db"
PACKAGES = ("torch", "zarr", "numcodecs", "av", "ffmpeg-python", "imageio-ffmpeg", "pandas", "dvc", "prefect", "mlflow")


def splits(pyramid: Path) -> list[tuple[str, int, int, int]]:
    """Of each split of a pyramid its name, videos, frames of the top view and seconds."""
    return [
        (str(split), len(rows), int(rows["n_frames"].to_numpy().sum()), round(float(np.nansum(rows["seconds"]))))
        for split, rows in read_table(pyramid).groupby("split", sort=True)
    ]


def level(folder: Path) -> tuple[int, str | None]:
    """Of a trained level its classes, and the hash of what it was made from. UserError where it is none."""
    with reading(folder / "config.json", "train the level first, or again, by `dvc repro`"):
        stored = json.loads((folder / "config.json").read_bytes())
        return int(stored["config"]["classes"]), stored.get("inputs")


def run_link(store: str, run_id: str) -> str:
    """The page of a run on a tracking server; empty for other stores."""
    return f"{store.rstrip('/')}/#/runs/{run_id}" if store.startswith(("http://", "https://")) else ""


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
