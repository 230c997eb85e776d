"""A note of each job that was submitted, kept until its end has been seen: a later process finds it by that."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.errors import UserError
from pipeline.launch.slurm import Slurm
from pipeline.paths import write_atomic


@dataclass(frozen=True, kw_only=True)
class Record:
    """A submitted job, kept until its end has been seen."""

    cluster: str  # in clusters.yaml
    name: str
    id: str | None  # None: being submitted
    inputs: str  # hash of what it runs


def record_file(folder: Path, stage: str) -> Path:
    """Where a stage's submitted job is noted."""
    return folder / f"{stage}.json"


def note(folder: Path, stage: str, record: Record) -> None:
    """Note a stage's job, whole or not at all."""
    write_atomic(record_file(folder, stage), json.dumps(asdict(record)) + "\n")


def recorded(folder: Path, stage: str) -> Record | None:
    """The job that was last submitted for a stage, unless its end has been seen. It may be long over.

    Raises UserError where the note is none of this version's.
    """
    file = record_file(folder, stage)
    if not file.is_file():
        return None
    try:
        return Record(**json.loads(file.read_text()))
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: no note of a job that can be read ({error}); remove it if the job is over") from error


def forget(folder: Path, stage: str) -> None:
    """A stage's job is over, or never came to be."""
    record_file(folder, stage).unlink(missing_ok=True)


def still_there(folder: Path, stage: str, slurm: Slurm) -> Record | None:
    """A stage's noted job, with its id, where it waits or runs."""
    record = recorded(folder, stage)
    if record is None:
        return None
    try:
        job_id = record.id or slurm.find(record.name)
        over = job_id is None or slurm.poll(job_id, record.name).over
    except OSError as error:
        raise UserError(
            f"{stage}: job {record.id or record.name} of {record.cluster} may still run, and {record.cluster} does not "
            f"answer ({error}); try again, or remove {record_file(folder, stage)} if it is gone"
        ) from error
    if over:
        forget(folder, stage)
        return None
    return replace(record, id=job_id)
