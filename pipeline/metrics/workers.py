"""Sums over the workers of a job, where there are several: what each measured becomes what all measured."""

import torch
import torch.distributed as dist
from torch import Tensor


def sum_of_workers(values: Tensor) -> Tensor:
    """The sum over all workers, on each, on the CPU; alone, the values themselves."""
    if not dist.is_available() or not dist.is_initialized():
        return values
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = values.detach().to(device).clone()
    dist.all_reduce(total)
    return total.cpu()


def on_all_workers(flag: bool) -> bool:
    """Whether the flag is set on every worker: the same answer on each."""
    without = sum_of_workers(torch.tensor(0 if flag else 1))
    return not without.item()
