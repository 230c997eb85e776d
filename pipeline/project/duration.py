"""How long the levels of params.yaml take to train here: their arithmetic over this machine's rate.

`python -m pipeline.project.duration` prints it as one line; `hvg repro` does so while Prefect's server starts.
"""

import sys
import time

import torch

from pipeline.params import Params, load_params
from pipeline.paths import Paths
from pipeline.project.describe import arithmetic, generation_tflop

SIZE = 1024  # of the matrices whose product is the rate
ROUNDS = 5
# Of the rate of a matrix product with all threads, what training reaches: `shapes` took 21 minutes at 132 GFLOP/s.
EFFICIENCY = 0.75


def flop_per_second() -> float:
    """Of this machine's processor: the fastest of a few float32 matrix products with all threads."""
    a, b = torch.ones(2, SIZE, SIZE)
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - began)
    return 2 * SIZE**3 / min(seconds)


def seconds_by_level(params: Params, rate: float) -> dict[str, float]:
    """Of training each level, all its iterations, and of generating its videos, on a processor of `rate` FLOP/s."""
    seconds, samples = {}, params.samples
    counts = {level: arithmetic(params, int(level)) for level in params.levels}
    forward = {level: count["forward_tflop"] for level, count in counts.items()}
    for level, chosen in params.levels.items():
        training = chosen.training.iterations * chosen.training.batch * counts[level]["iteration_tflop"]
        conditions = params.conditions.get(level)
        stores = [samples.videos, samples.figures, *([conditions.train + conditions.measure] if conditions else [])]
        generation = sum(generation_tflop(params, forward, int(level), videos) for videos in stores)
        seconds[level] = (training + generation) * 1e12 / (rate * EFFICIENCY)
    return seconds


def rounded(seconds: float) -> str:
    """For a person: minutes below two hours, then hours, then days."""
    if seconds < 90:
        return "a minute"
    for unit, length, most in (("minutes", 60, 120), ("hours", 3600, 48)):
        if seconds < most * length:
            return f"{round(seconds / length)} {unit}"
    return f"{round(seconds / 86400)} days"


def line(params: Params) -> str:
    """What to expect, in one line."""
    if torch.cuda.is_available():
        return "how long training takes on this GPU its progress bars tell"
    rate = flop_per_second()
    seconds = seconds_by_level(params, rate)
    levels = ", ".join(f"level {level} {rounded(s)}" for level, s in seconds.items())
    return (
        f"about {rounded(sum(seconds.values()))} to train and generate every level ({levels}), with this processor at "
        f"{rate / 1e9:.0f} GFLOP/s; what is up to date is not run again"
    )


if __name__ == "__main__":
    sys.stderr.write(f"{line(load_params(Paths().params))}\n")
