"""clusters.yaml: where jobs run, by name. No parameter of DVC's: it changes nothing about what is made."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import UserError
from pipeline.paths import origin
from pipeline.system.yaml import explain

FILE = "clusters.yaml"
Positive = Annotated[int, Field(gt=0)]
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]  # one line
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_STRICT = ConfigDict(extra="forbid", strict=True)


def _one_job(option: str) -> str:
    if re.match("--(ar|cl|te|wr|wait$)", option):  # sbatch takes them shortened
        raise ValueError(
            "a stage is one job that hvg waits for, in the Slurm of this machine's configuration: without --array, "
            "--clusters, --test-only, --wait and --wrap"
        )
    return option


@dataclass(frozen=True, kw_only=True)
class LocalCluster:
    """This machine."""

    __pydantic_config__ = _STRICT

    launcher: Literal["local"] = "local"
    workers: Positive | None = None  # processes; null: one a GPU


@dataclass(frozen=True, kw_only=True)
class SlurmCluster:
    """A Slurm whose nodes see the project's folder under the same path as this machine."""

    __pydantic_config__ = _STRICT

    launcher: Literal["slurm"]
    partition: Text | None = None
    account: Text | None = None
    nodes: Positive = 1
    gpus_per_node: Positive | None = None  # and so many processes a node
    cpus_per_task: Positive | None = None  # of a node's torchrun, for all of its processes
    time: Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d+){0,2}$")] | None = None  # Slurm's: 12:00:00, 2-0
    requeue: bool = True  # when its time is over or a node fails
    sbatch: tuple[
        Annotated[Text, Field(pattern="^--"), AfterValidator(_one_job)], ...
    ] = ()  # more options: --constraint=a100
    setup: tuple[Text, ...] = ()  # lines of shell on the first node: module load cuda
    container: Text | None = None  # image for srun --container-image, where the site has pyxis
    mounts: tuple[Text, ...] = ()  # of the container, beside the project's folder
    python: Text | None = None  # null: this interpreter, or python in a container
    poll: Annotated[float, Field(ge=0.1, le=3600)] = 10  # seconds between questions to Slurm


Cluster = LocalCluster | SlurmCluster
_KINDS: dict[str, type[Cluster]] = {"local": LocalCluster, "slurm": SlurmCluster}


def load_cluster(name: str, root: Path = Path()) -> Cluster:
    """The cluster `name` of clusters.yaml in the checkout that `root` belongs to. `local` needs no file.

    Raises UserError, with file and key, for a cluster that there is not and for a file that is wrong anywhere.
    """
    path, clusters = origin(root) / FILE, clusters_of(root)
    if name in clusters:
        return clusters[name]
    if name == "local":
        return LocalCluster()
    if not path.is_file():
        raise UserError(f"--cluster {name}: there is no {path}; clusters.example.yaml shows what stands in it")
    raise UserError(f"--cluster {name}: {path} has the clusters {', '.join(clusters) or '(none)'}")


def clusters_of(root: Path) -> dict[str, Cluster]:
    """All clusters that the checkout which `root` belongs to has."""
    path = origin(root) / FILE
    return read_clusters(path) if path.is_file() else {}


def read_clusters(path: Path) -> dict[str, Cluster]:
    """All clusters of a file, checked."""
    try:
        raw = YAML(typ="safe").load(path) or {}
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a mapping of clusters by name")
    return {name: _cluster(path, name, values) for name, values in raw.items()}


def _cluster(path: Path, name: Any, values: Any) -> Cluster:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{path}: {name!r}: a cluster's name is small letters, digits and -")
    kind = values.get("launcher") if isinstance(values, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UserError(f"{path}: {name}.launcher: must be one of {', '.join(_KINDS)}")
    if name == "local" and kind != "local":
        raise UserError(f"{path}: local.launcher: must be local; give this cluster another name")
    try:
        return TypeAdapter(_KINDS[kind]).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in (name, *first["loc"]))
        raise UserError(f"{path}: {key}: {explain(first)}") from error
    except (TypeError, ValueError) as error:  # of json: a date, an alias within itself
        raise UserError(f"{path}: {name}: holds a value that is no number, text, list or mapping: {error}") from error
