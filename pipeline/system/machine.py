"""What this machine offers."""

import os
import platform
from pathlib import Path

SPIN_COUNT = "2000"


def set_up_threads() -> None:
    """How OpenMP's threads wait and MKL's sum up, unless the user says. Before torch's import; children inherit it.

    A thread that spins takes the core from the one it waits for wherever there is other work: an iteration beside one
    busy process takes several times as long (docs/performance.md). Idle threads sleep after a short wait.

    Without its mode AUTO, MKL promises no two runs the same bytes: it adds up in the order in which threads come.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    os.environ.setdefault("MKL_CBWR", "AUTO")


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
