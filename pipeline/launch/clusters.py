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


# Options of sbatch's (they may be shortened) after which there is not one job, known by its id, in the Slurm asked.
_NO_JOB = {
    "--cl": "jobs go to the Slurm of this machine's configuration, without --clusters",
    "--ar": "a stage is one job, without --array",
    "--te": "--test-only submits nothing; hvg run --dry-run shows the script",
    "--wr": "the stage is the command, without --wrap",
}


def _one_job(option: str) -> str:
    for start, reason in _NO_JOB.items():
        if option.startswith(start):
            raise ValueError(reason)
    if option == "--wait":
        raise ValueError("hvg itself waits, without --wait")
    return option


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a cluster has for a job."""

    machines: int
    workers: int | None  # processes a machine; None: one a GPU
    cores: int | None  # of a machine; None: all that there are


@dataclass(frozen=True, kw_only=True)
class LocalCluster:
    """This machine."""

    __pydantic_config__ = _STRICT

    launcher: Literal["local"] = "local"
    workers: Positive | None = None  # null: one a GPU

    def room(self, nodes: int | None) -> Room:
        """What there is for a job. Raises UserError for more machines than this one."""
        if nodes is not None and nodes > 1:
            raise UserError(f"--nodes {nodes}: this is one machine; --cluster names one of clusters.yaml")
        return Room(machines=1, workers=self.workers, cores=None)


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

    def room(self, nodes: int | None) -> Room:
        """What there is for a job on so many machines, or as many as it has."""
        return Room(machines=nodes or self.nodes, workers=self.gpus_per_node or 1, cores=self.cpus_per_task)


Cluster = LocalCluster | SlurmCluster
_KINDS: dict[str, type[Cluster]] = {"local": LocalCluster, "slurm": SlurmCluster}


def load_cluster(name: str, root: Path = Path()) -> Cluster:
    """The cluster `name` of clusters.yaml in the checkout that `root` belongs to. `local` needs no file.

    Raises UserError, with file and key, for a cluster that there is not and for a file that is wrong anywhere.
    """
    path, known = origin(root) / FILE, known_clusters(root)
    if name in known:
        return known[name]
    if name == "local":
        return LocalCluster()
    if not path.is_file():
        raise UserError(f"--cluster {name}: there is no {path}; clusters.example.yaml shows what stands in it")
    raise UserError(f"--cluster {name}: {path} has the clusters {', '.join(known) or '(none)'}")


def known_clusters(root: Path = Path()) -> dict[str, Cluster]:
    """The clusters of clusters.yaml in the checkout that `root` belongs to, by name; none where there is no file."""
    path = origin(root) / FILE
    return read_clusters(path) if path.is_file() else {}


def read_clusters(path: Path) -> dict[str, Cluster]:
    """All clusters of a file, checked."""
    try:
        raw = YAML(typ="safe").load(path)
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if raw is None:
        return {}
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
