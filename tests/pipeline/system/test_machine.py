"""How OpenMP's threads wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PRINT = "import stages, os; print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({}, "2000 None"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
        ({"OMP_WAIT_POLICY": "active"}, "None active"),
    ],
)
def test_a_stage_bounds_how_long_threads_spin_unless_the_user_says_how(given, seen):
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", PRINT]
    root = Path(__file__).parents[3]
    assert subprocess.check_output(command, cwd=root, env={**kept, **given}, text=True).strip() == seen
