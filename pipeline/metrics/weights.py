"""Files of I3D weights: where they lie, and that they are those that a parameter means."""

import hashlib
import sys
from pathlib import Path

from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.paths import origin
from pipeline.system.values import Weights

INSTALLED = "installed"  # in a parameter: DeepMind's I3D of Kinetics-400, which set-up fetches (metrics/fetch.py)
INSTALLED_SHA256 = "1254ffbff2e6c6a4ebcf2d687438365509afc08e4045052f7ab0a8e9794a4a11"


def installed_file() -> Path:
    """Where set-up puts them: beside the libraries, for every checkout and folder that uses these."""
    return Path(sys.prefix) / "share" / "hvg" / "i3d-k400.safetensors"


def sha256_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def weights_of(file: str, root: Path) -> dict[str, str]:
    """A parameter's value for a file, by a path from `root`, or the name INSTALLED. UserError where there is none."""
    if file == INSTALLED:
        return {"file": file, "sha256": INSTALLED_SHA256}
    path = _place(file, root)
    if not path.is_file():
        raise UserError(f"{file}: no such file of I3D weights")
    return {"file": file, "sha256": sha256_of(path)}


def evaluation_weights(params: Params, root: Path) -> dict[str, Path | None]:
    """The files of the evaluation's two I3Ds, by their parameters. UserError for one that is not as these say."""
    chosen = {"evaluation.i3d_k400": params.evaluation.i3d_k400, "evaluation.i3d_k600": params.evaluation.i3d_k600}
    return {key: weights and find_weights(weights, root, key) for key, weights in chosen.items()}


def find_weights(weights: Weights, root: Path, key: str) -> Path:
    """The file that a parameter means, by a path from `root`. UserError, with its `key`, for none or another one."""
    path = _place(weights.file, root)
    if not path.is_file():
        way = "`hvg fetch-i3d` installs it" if weights.file == INSTALLED else "put it there"
        raise UserError(f"{key}: {path} does not exist; {way}, or `hvg recipe --set {key}=null` takes a random I3D")
    found = sha256_of(path)
    if found != weights.sha256:
        again = "`hvg fetch-i3d` fetches it again and " if weights.file == INSTALLED else ""
        raise UserError(
            f"{key}: {path} has SHA-256 {found[:16]}…, not {weights.sha256[:16]}… as params.yaml has it; "
            f"{again}`hvg recipe --set {key}={weights.file}` takes what is there"
        )
    return path


def _place(file: str, root: Path) -> Path:
    try:
        return installed_file() if file == INSTALLED else origin(root) / Path(file).expanduser()
    except RuntimeError as error:  # ~user of nobody
        raise UserError(f"{file}: {error}") from error
