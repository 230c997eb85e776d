"""The database that stands in for a server is whole or not there, whoever makes it and however that ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.paths import Paths
from pipeline.runs.store import Away, Store

pytestmark = pytest.mark.slow

# A process that has all imported, which takes longer than what is tested, and makes others of itself.
PROGRAM = """
import os, signal, time, traceback
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store
from pipeline.paths import Paths
from pipeline.runs.store import Store

def asking():
    child = os.fork()
    if child == 0:
        try:
            Store(Paths()).ask("get_experiment_by_name", "hvg")
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child

def codes(children):
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
"""
SEVERAL = """
assert codes([asking() for _ in range(3)]) == [0, 0, 0]
os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{Path.cwd() / 'their own.db'}"
assert codes([asking() for _ in range(3)]) == [0, 0, 0]
"""
KILLED = """
new = Path("mlflow.db-new")
for size in (1, 100_000):
    child = asking()
    while not (new.is_file() and new.stat().st_size >= size):
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended too early"
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert codes([child]) == [-signal.SIGKILL]
    assert not Path("mlflow.db").exists()
assert codes([asking()]) == [0]
"""


def run(program: str, folder: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-c", PROGRAM + program]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_several_at_once_make_one_also_at_a_path_of_the_users(tmp_path):
    run(SEVERAL, tmp_path)
    assert Store(Paths(tmp_path)).runs() == []
    assert {file.name for file in tmp_path.glob("*.db*")} == {"mlflow.db", "their own.db"}


def test_one_that_is_killed_half_way_leaves_none(tmp_path):
    """MLflow alone would find some of its tables, and stop at the first that it makes again."""
    run(KILLED, tmp_path)
    assert Store(Paths(tmp_path)).runs() == []
    assert not (tmp_path / "mlflow.db-new").exists()


def test_it_lies_in_the_checkout_whatever_its_folder_is_called(tmp_path):
    folder = tmp_path / "a?b %41 #c"
    folder.mkdir()
    run("assert codes([asking()]) == [0]", folder)
    assert (folder / "mlflow.db").is_file()
    assert list(tmp_path.iterdir()) == [folder]


def test_what_is_no_database_is_told(tmp_path):
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(Away, match=r"mlflow\.db does not answer: "):
        Store(Paths(tmp_path)).runs()
