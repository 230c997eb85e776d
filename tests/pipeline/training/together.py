"""Work that workers over gloo do together, in processes of their own, on kernels of a chosen kind."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # Adam asks for it, in every worker: seconds, once
from torch.multiprocessing.spawn import start_processes

from pipeline.workers import Workers, join_workers


@dataclass(frozen=True)
class Job:
    """`work(workers, folder)` by so many workers, one thread each, of which the first one's result is kept."""

    count: int
    work: Callable[[Workers, Path], Any]
    environment: dict[str, str] = field(default_factory=dict)


def results(jobs: dict[str, Job], folder: Path) -> dict[str, Any]:
    """What the jobs end with, by name.

    One interpreter imports torch, without the tests' type checks, and is forked for every worker: it has not computed
    anything, so that each worker has its own choice of kernels, which ATen, oneDNN and MKL make when first asked.
    """
    start_processes(_fork_all, args=(jobs, folder), nprocs=1, start_method="spawn")
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in jobs}


def _fork_all(_: int, jobs: dict[str, Job], folder: Path) -> None:
    for name, job in jobs.items():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / name).mkdir()
        start_processes(_work, args=(name, job, folder, port), nprocs=job.count, start_method="fork")


def _work(rank: int, name: str, job: Job, folder: Path, port: int) -> None:
    place = {"RANK": rank, "WORLD_SIZE": job.count, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in place.items()} | job.environment)
    torch.set_num_threads(1)
    with join_workers() as workers:
        result = job.work(workers, folder / name)
        if rank == 0:
            torch.save(result, folder / f"{name}.pt")
