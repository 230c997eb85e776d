import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.params import Start, load_params
from pipeline.training.checkpoint import files, inputs_of, record
from tests.pipeline.training.tiny import batches

PARAMS = load_params(Path(__file__).parents[3] / "recipes" / "shapes.yaml")


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, "pipeline")
    return caplog


def run(root, name, inputs, step=None):
    folder = root / f"train-level-1-{name}"
    folder.mkdir()
    record(folder, inputs)
    if step is not None:
        (folder / f"checkpoint-{step:08d}.pt").touch()
    return folder


ONE = {
    "seed": 0,
    "levels.1.training": {"lr": 0.5, "betas": [0.0, 0.9], "iterations": 300},
    "data": "a" * 64,
    "code": "b" * 64,
}


def test_a_run_that_begins_anew_says_what_differs(tmp_path, logged):
    run(tmp_path, "one", ONE, 300)
    assert not logged.records
    run(
        tmp_path,
        "two",
        {**ONE, "levels.1.training": {"lr": 0.25, "betas": [0.0, 0.9], "iterations": 300}, "code": "c" * 64},
    )
    (message,) = logged.messages
    differing = "other levels.1.training.lr (0.5, now 0.25); code"
    assert message.endswith(f"-one, trained to iteration 300, is not gone on from: {differing}")


def test_only_runs_of_the_level_with_checkpoints_are_compared(tmp_path, logged):
    run(tmp_path, "one", ONE)
    (tmp_path / "train-level-2-x").mkdir()
    (tmp_path / "train-level-2-x" / "checkpoint-00000001.pt").touch()
    two = run(tmp_path, "two", {**ONE, "seed": 1}, 5)
    record(two, {**ONE, "seed": 1})
    assert not logged.records


def test_how_often_a_run_is_saved_or_shown_makes_no_difference():
    made = batches(1)
    made.real.digest = "d" * 64

    def inputs(**changed):
        level = PARAMS.levels["1"]
        changed_level = replace(level, training=replace(level.training, **changed))
        return inputs_of(made, replace(PARAMS, levels={**PARAMS.levels, "1": changed_level}), None)

    assert inputs(checkpoint_every=7, samples_every=9) == inputs()
    assert inputs(log_every=7) != inputs()  # history.csv has other rows
    assert inputs(average=0.9) != inputs()
    assert inputs(iterations=9) != inputs()  # a folder of its own
    start = Start(path="a", sha256="a" * 64)
    assert inputs(start=start) == inputs(start=replace(start, path="b")) != inputs()
    assert inputs(start=replace(start, sha256="b" * 64)) != inputs(start=start)
    assert inputs()["data"] == "d" * 64


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]"])
def test_a_run_of_which_nothing_is_known_is_passed_over(tmp_path, logged, content):
    (run(tmp_path, "one", ONE, 300) / "inputs.json").write_bytes(content)
    run(tmp_path, "two", ONE)
    assert not logged.records


MORE = {
    "levels.1": {"training": {"iterations": 8, "log_every": 2, "measure": None, "batch": 4}},
    "code": "b" * 64,
}


def other(**changed):
    return {**MORE, "levels.1": {"training": {**MORE["levels.1"]["training"], **changed}}}


def patience(measurements):
    return {"measure": {"every": 1, "patience": measurements}}


@pytest.mark.parametrize(
    "changed", [{"iterations": 12}, {"log_every": 3}, {"iterations": 4}, patience(4), patience(None)]
)
def test_what_changes_no_iteration_that_was_done_goes_on(tmp_path, logged, changed):
    one = run(tmp_path, "one", other(**patience(3)) if "measure" in changed else MORE, 4)
    (one / "checkpoint-00000002.pt").touch()
    two = run(tmp_path, "two", other(**changed))
    assert logged.messages == [f"going on from checkpoint-00000004.pt of {one}"]
    shutil.rmtree(one)  # what it goes on from is its own, whatever the other does with it meanwhile
    assert [file.name for file in files(two)] == ["checkpoint-00000004.pt", "checkpoint-00000002.pt"]
    record(two, other(**changed))
    assert len(logged.messages) == 1


@pytest.mark.parametrize(
    ("changed", "differing"),
    [
        ({"iterations": 3}, "iterations (8, now 3)"),
        (patience(2), "measure.patience (3, now 2)"),
        ({"batch": 8, "iterations": 12}, "iterations (8, now 12); levels.1.training.batch (4, now 8)"),
    ],
)
def test_what_changes_them_and_fewer_iterations_begin_anew(tmp_path, logged, changed, differing):
    """Fewer measurements to wait for as well: the other may have gone on where this one stops."""
    run(tmp_path, "one", other(**patience(3)) if "measure" in changed else MORE, 4)
    run(tmp_path, "two", other(**changed))
    (message,) = logged.messages
    assert message.endswith(f"trained to iteration 4, is not gone on from: other levels.1.training.{differing}")
