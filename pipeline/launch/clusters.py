"""clusters.yaml: where jobs run, by name. No parameter of DVC's: it changes nothing about what is made."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from pipeline.errors import UserError
from pipeline.paths import origin
from pipeline.system.values import Positive, Text
from pipeline.system.yaml import read_yaml, validated

FILE = "clusters.yaml"
LOCAL = "local"  # this machine, which stands in no file


def _one_job(option: str) -> str:
    if re.match("--(ar|cl|te|wr|wait$)", option):  # sbatch takes them shortened
        raise ValueError(
            "a stage is one job that hvg waits for, in the Slurm of this machine's configuration: without --array, "
            "--clusters, --test-only, --wait and --wrap"
        )
    return option


@dataclass(frozen=True, kw_only=True)
class SlurmCluster:
    """A Slurm whose nodes see the project's folder under the same path as this machine."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

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
    poll: Annotated[float, Field(ge=0.1, le=3600)] = 10  # seconds between questions to Slurm


def load_cluster(name: str, root: Path = Path()) -> SlurmCluster | None:
    """The cluster `name` of clusters.yaml in the checkout that `root` belongs to; None for this machine.

    Raises UserError, with file and key, for a cluster that there is not and for a file that is wrong anywhere.
    """
    path = origin(root) / FILE
    if name == LOCAL:
        return None
    if not path.is_file():
        raise UserError(f"--cluster {name}: there is no {path}; clusters.example.yaml shows what stands in it")
    clusters = read_clusters(path)
    if name not in clusters:
        raise UserError(f"--cluster {name}: {path} has the clusters {', '.join(clusters) or '(none)'}")
    return clusters[name]


def read_clusters(path: Path) -> dict[str, SlurmCluster]:
    """All clusters of a file, checked."""
    values = read_yaml(path) or {}
    if isinstance(values, dict) and LOCAL in values:
        raise UserError(f"{path}: {LOCAL}: is this machine, which stands in no file; give the cluster another name")
    return validated(dict[str, SlurmCluster], values, str(path))
