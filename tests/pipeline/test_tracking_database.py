"""The database that stands in for a server is whole or not there, whoever makes it and however that ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline import tracking
from pipeline.paths import Paths

pytestmark = pytest.mark.slow

ASK = "from pipeline.paths import Paths; from pipeline.runs.store import Store; Store(Paths()).ask()"


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def asking(folder, **env):
    return subprocess.Popen([sys.executable, "-c", ASK], cwd=folder, env=os.environ | env, stderr=subprocess.PIPE)


def test_several_at_once_make_one(tmp_path):
    several = [asking(tmp_path) for _ in range(3)]
    told = [one.communicate()[1].decode() for one in several]
    assert [one.returncode for one in several] == [0, 0, 0], told
    assert tracking.find_runs(Paths(tmp_path)) == []


def test_several_at_once_make_one_at_a_path_of_the_users(tmp_path):
    uri = f"sqlite:///{tmp_path / 'their own.db'}"
    several = [asking(tmp_path, MLFLOW_TRACKING_URI=uri) for _ in range(3)]
    told = [one.communicate()[1].decode() for one in several]
    assert [one.returncode for one in several] == [0, 0, 0], told
    assert (tmp_path / "their own.db").is_file()


def test_one_that_is_killed_half_way_leaves_none(tmp_path):
    """MLflow alone would find some of its tables, and stop at the first that it makes again."""
    for size in (1, 100_000):
        making = asking(tmp_path)
        new = tmp_path / "mlflow.db-new"
        while making.poll() is None and not (new.is_file() and new.stat().st_size >= size):
            time.sleep(0.002)
        making.send_signal(signal.SIGKILL)
        making.communicate()
        assert making.returncode == -signal.SIGKILL
        assert not (tmp_path / "mlflow.db").exists()
    last = asking(tmp_path)
    told = last.communicate()[1].decode()
    assert last.returncode == 0, told
    assert tracking.find_runs(Paths(tmp_path)) == []
    assert not new.exists()
