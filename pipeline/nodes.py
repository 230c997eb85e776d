"""The nodes of a job that shares out files, as torchrun started them: one process each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

LONGEST = timedelta(days=90)  # that one node waits for another; a node that is gone ends the wait at once


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """This node among all."""

    rank: int = 0
    count: int = 1

    def wait(self) -> None:
        """Until every node is here. Raises RuntimeError where one of them ended."""
        if dist.is_initialized():
            dist.barrier()


ALONE = Nodes()


@contextmanager
def nodes() -> Iterator[Nodes]:
    """This process's place in its job; alone, no process group at all."""
    found = Nodes(rank=int(os.environ.get("RANK", "0")), count=int(os.environ.get("WORLD_SIZE", "1")))
    if found.count > 1:
        dist.init_process_group("gloo", timeout=LONGEST)
    yield found
    # Not after an exception: taking the group down would wait for nodes that wait for this one.
    if found.count > 1:
        dist.destroy_process_group()
