"""A real stage process whose tracking server is away: trained all the same, and every number arrives later."""

import os
import subprocess
import sys

import pandas as pd
import pytest

from pipeline.runs import tracking
from pipeline.runs.store import Store
from tests.pipeline.runs.mlflow_server import door, free_port
from tests.stages.test_training_is_stopped import project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_level_is_trained_without_its_tracking_server(tmp_path, monkeypatch, mlflow_port):
    paths, port = project(tmp_path / "p"), free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:hunter2@127.0.0.1:{port}")
    done = subprocess.run(
        [sys.executable, "-m", "stages.train", "--level", "1"],
        cwd=paths.root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("does not answer") == 1 and "hunter2" not in done.stderr
    assert (paths.artifact(1) / "generator.safetensors").is_file()
    with door(port, mlflow_port):
        tracking.send_waiting(Store(paths))
        (run,) = [run for run in Store(paths).runs("train level 1") if tracking.of_this_checkout(run, paths)]
        kept = list(Store(paths).files(run.id))
    history = pd.read_csv(paths.artifact(1) / "history.csv")
    assert run.status == "FINISHED"
    assert run.metrics["loss_generator"] == pytest.approx(history["loss_generator"].iloc[-1])
    assert kept and all(file.startswith("pictures/") for file in kept)
    assert not (paths.root / "mlflow.db").exists()
