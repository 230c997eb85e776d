"""How OpenMP's threads wait and MKL's sum up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "MKL_CBWR")
PRINT = f"import stages, os; print(*[os.environ.get(name) for name in {NAMES}])"


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({}, "2000 None AUTO"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None AUTO"),
        ({"MKL_CBWR": "AVX2"}, "2000 None AVX2"),
        ({"OMP_WAIT_POLICY": "active"}, "None active AUTO"),
    ],
)
def test_a_stage_says_how_threads_wait_and_sum_up_unless_the_user_does(given, seen):
    kept = {k: v for k, v in os.environ.items() if k not in NAMES}
    command = [sys.executable, "-c", PRINT]
    root = Path(__file__).parents[3]
    assert subprocess.check_output(command, cwd=root, env={**kept, **given}, text=True).strip() == seen
