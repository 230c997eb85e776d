"""What this machine offers."""

import os
import platform
from pathlib import Path

SPIN_COUNT = "2000"


def bound_spinning() -> None:
    """Have OpenMP's idle threads sleep after a short wait, unless the user says how they wait. Before torch's import.

    A thread that spins takes the core from the one it waits for wherever there is other work: an iteration beside one
    busy process takes several times as long (docs/performance.md). Processes that this one starts inherit it.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
