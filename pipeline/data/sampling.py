"""Everything random in training and generation, as a function of where it is used.

A draw depends on (seed, level, stream, step, position in the global batch) and on nothing else: not on the number of
workers, on what was drawn before, or on where a run was interrupted. Philox counters make such draws cheap.
"""

import zlib

import numpy as np


def generator(seed: int, level: int, stream: str, step: int, position: int) -> np.random.Generator:
    """An independent generator for one place: `stream` names the purpose, `position` is in the global batch."""
    key = np.array([seed, (level << 32) | zlib.crc32(stream.encode())], dtype=np.uint64)
    counter = np.array([0, 0, step, position], dtype=np.uint64)  # the first word counts the draws
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def spread(counts: np.ndarray, n: int) -> np.ndarray:
    """`n` labels in the proportions of `counts`, largest remainders first, in ascending order: [n] int64.

    Labels for a generated set: the data's proportions without the noise of drawing them.
    """
    exact = counts / counts.sum() * n
    floor = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - floor), kind="stable")
    floor[by_remainder[: n - floor.sum()]] += 1
    return np.repeat(np.arange(len(counts)), floor)
