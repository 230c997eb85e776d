"""Values: kinds of numbers and texts with their bounds, for pydantic, and a hash that tells them apart."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

if TYPE_CHECKING:
    from torch import Tensor

MOST = 10**9  # of anything that is counted
LARGEST = defaultdict(lambda: 2**16, frames=2**20, size=2**13)  # of a view's and a network's numbers, by name
LONGEST_NAME_BYTES = 255  # that file systems take


def _place(path: str) -> str:
    try:
        name = max(Path(path).expanduser().parts, key=len, default="")
    except RuntimeError as error:  # ~user, whom nobody knows
        raise ValueError(f"no home is known for {path.partition('/')[0]}") from error
    if len(name.encode()) > LONGEST_NAME_BYTES:
        raise ValueError(f"has a part of more than {LONGEST_NAME_BYTES} bytes")
    return path


Positive = Annotated[int, Field(gt=0, le=MOST)]
Natural = Annotated[int, Field(ge=0, lt=2**48)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=10)]
Fps = Annotated[float, Field(ge=0.02, le=1000)]  # frames a second
Decay = Annotated[float, Field(ge=0, lt=1)]
Several = Annotated[int, Field(ge=2, le=MOST)]  # videos: one has no covariance
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]  # one line
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # SHA-256
Place = Annotated[str, Field(min_length=1), AfterValidator(_place)]  # a path that a file system can hold


def _no_path(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError("a file of weights has its SHA-256 beside it, which `hvg recipe --set KEY=FILE` puts there")
    return value


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A file of a network's weights by what is in it: another file at the same place is another value."""

    file: Place  # from the project's root, or a name that pipeline.metrics.weights knows
    sha256: Hash


I3DFile = Annotated[Weights, BeforeValidator(_no_path)]


def fingerprint(*values: Any) -> str:
    """A hash of plain values and dataclasses, the same in every process."""
    plain = [asdict(v) if hasattr(v, "__dataclass_fields__") else v for v in values]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def digest_of(tensors: Mapping[str, "Tensor"], about: Mapping[str, Any]) -> str:
    """The SHA-256 of some tensors and of what is said of them, in whatever order: safetensors has no checksums."""
    content = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name, values in sorted(tensors.items()):
        content.update(f"{name} {values.dtype} {list(values.shape)}\n".encode())
        content.update(values.contiguous().numpy().tobytes())
    return content.hexdigest()
