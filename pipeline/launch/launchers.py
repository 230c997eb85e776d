"""A launcher for a cluster of clusters.yaml."""

from pathlib import Path

from pipeline.errors import UserError
from pipeline.launch.clusters import Cluster, LocalCluster, SlurmCluster, known_clusters
from pipeline.launch.local import LocalLauncher
from pipeline.launch.records import record_file, recorded, still_there
from pipeline.launch.remote import ClusterLauncher
from pipeline.launch.slurm import Slurm


def make_launcher(
    name: str, cluster: Cluster, *, stage: str, inputs: str, state: Path, log: Path
) -> LocalLauncher | ClusterLauncher:
    """The launcher of cluster `name` for one stage.

    stage: its name in file names, train-level-2. inputs: the hash of what it runs. state: the project's .hvg, relative.
    log: of a local job.
    """
    if isinstance(cluster, LocalCluster):
        return LocalLauncher(log)
    return ClusterLauncher(
        slurm=_slurm(cluster, state), cluster=name, stage=stage, inputs=inputs, folder=state / "jobs"
    )


def refuse_two(name: str, *, stage: str, state: Path) -> None:
    """Raise UserError where another cluster than `name` still runs a stage: both jobs would write to one folder."""
    record = recorded(state / "jobs", stage)
    if record is None:
        return
    cluster = known_clusters().get(record.cluster)
    if cluster is None or isinstance(cluster, LocalCluster):
        raise UserError(
            f"{stage}: job {record.id or record.name} of the cluster {record.cluster!r} is noted, which "
            f"clusters.yaml no longer has: bring it back, or remove {record_file(state / 'jobs', stage)} if it is over"
        )
    if record.cluster == name:
        return
    slurm = _slurm(cluster, state)
    if (found := still_there(state / "jobs", stage, slurm)) is not None and found.id is not None:
        raise UserError(
            f"{stage}: job {found.id} of {found.cluster} still runs it: `--cluster {found.cluster}` waits for it, "
            f"`{slurm.way_out(found.id)}` ends it"
        )


def _slurm(cluster: SlurmCluster, state: Path) -> Slurm:
    return Slurm(cluster=cluster, root=Path().resolve(), jobs=state / "jobs", logs=state / "logs")
