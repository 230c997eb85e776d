"""The workers of a job, as torchrun started them: which this one is, and what all of them add up together."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import UserError
from pipeline.system.environment import MEETING

LONGEST = timedelta(days=90)  # that one worker waits for another; one that is gone ends the wait at once
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Workers:
    """This worker among all: the global batch is cut into equal, contiguous parts by rank."""

    rank: int = 0
    count: int = 1
    device: torch.device = CPU

    def positions(self, batch: int) -> range:
        """This worker's positions in a global batch. Raises UserError where it cannot be cut into equal parts."""
        if batch % self.count:
            raise UserError(f"a batch of {batch} cannot be shared equally by {self.count} workers: change one of them")
        share = batch // self.count
        return range(self.rank * share, (self.rank + 1) * share)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all workers, on each."""
        return self.sum(values) / self.count

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all workers, on each, on the values' own device."""
        if self.count == 1:
            return values
        total = values.detach().to(self.device, copy=True)  # NCCL takes nothing from a CPU
        dist.all_reduce(total)
        return total.to(values.device)

    def of_first(self, values: Tensor) -> Tensor:
        """Rank 0's values, on each worker."""
        return self.sum(values if self.rank == 0 else torch.zeros_like(values))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any worker: the same answer on each."""
        return bool(self.sum(torch.tensor(float(flag))))

    def wait(self) -> None:
        """Until every worker is here. Raises RuntimeError where one of them ended."""
        if dist.is_initialized():
            dist.barrier()


ALONE = Workers()


@contextmanager
def join_workers(*, gpus: bool = True) -> Iterator[Workers]:
    """This process's place in its job: NCCL where there are GPUs, gloo elsewhere; alone, no process group at all.

    gpus: False for a stage that has no use for them. Raises UserError where there are more workers than GPUs.
    """
    rank = int(os.environ.get("RANK", "0"))
    count = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = CPU
    if gpus and torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UserError(f"--workers: at most one a GPU, and there are {torch.cuda.device_count()} GPUs here")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if count > 1:
        on_gpu, meeting = device.type == "cuda", os.environ.get(MEETING)
        # In the file that the launcher has given for it; without, as torchrun says in the environment.
        store = dist.FileStore(meeting, count) if meeting else None  # pyright: ignore[reportPrivateImportUsage]
        place = {"store": store, "rank": rank, "world_size": count} if meeting else {}
        dist.init_process_group(
            "nccl" if on_gpu else "gloo", device_id=device if on_gpu else None, timeout=LONGEST, **place
        )
    yield Workers(rank=rank, count=count, device=device)
    # Not after an exception: taking the group down would wait for workers that wait for this one.
    if count > 1:
        dist.destroy_process_group()
