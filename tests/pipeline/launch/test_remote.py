"""Following a job on a cluster, with a Slurm that is played."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.launch import remote
from pipeline.launch.job import DeadlineExceeded, Job, JobCancelled, JobFailed
from pipeline.launch.records import record_file
from pipeline.launch.remote import ClusterLauncher
from pipeline.launch.slurm import State

JOB = Job(module="stages.toy")
WAITING, RUNNING, DONE = State(phase="waiting", says="PENDING (Resources)"), State(phase="running"), State(phase="done")


@dataclass
class Played:
    """A cluster where each question for a job's state gets the next answer, the last one again and again."""

    answers: list[State | BaseException]
    lines: list[bytes] = field(default_factory=list)  # one at each look
    ends_on: tuple[bool, ...] = (False, True)  # of `now`: which cancellations end the job
    refusal: Exception | None = None  # of what is submitted
    found: list[str | OSError | None] = field(default_factory=lambda: ["7"])
    ended_as: Path = Path("nowhere")
    submitted: int = 0
    cancelled: list[bool] = field(default_factory=list)
    poll_every: float = 0.01
    look_every: float = 0.005

    def preview(self, job: Job, name: str) -> str:
        return f"{name}: {job.module}"

    def submit(self, job: Job, name: str) -> str:
        self.submitted += 1
        if self.refusal is not None:
            raise self.refusal
        return f"{self.submitted}"

    def find(self, name: str) -> str | None:
        answer = self.found.pop(0) if len(self.found) > 1 else self.found[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def poll(self, job_id: str, name: str) -> State:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def stream(self, name: str, seen: dict[str, int]) -> bytes:
        return self.lines.pop(0) if self.lines else b""

    def cancel(self, job_id: str, *, now: bool) -> None:
        self.cancelled.append(now)
        if now in self.ends_on:
            self.answers = [State(phase="cancelled", says="CANCELLED")]

    def log(self, name: str) -> str:
        return f"{name}.log"

    def ended(self, name: str) -> Path:
        return self.ended_as

    def way_out(self, job_id: str) -> str:
        return f"end {job_id}"


def launcher(played: Played, folder: Path, inputs: str = "a") -> ClusterLauncher:
    slurm: Any = played
    return ClusterLauncher(slurm=slurm, cluster="far", stage="toy", inputs=inputs, folder=folder, grace=0.05)


def run(played: Played, folder: Path, **options) -> list[str]:
    lines: list[str] = []
    launcher(played, folder).run(JOB, lines.append, **options)
    return lines


def test_lines_and_states_are_told_once(tmp_path, capfd):
    played = Played([WAITING, WAITING, RUNNING, RUNNING, DONE], [b"", b"node1 rank 0: o", b"ne\nnode2 rank 1: two\n"])
    lines = run(played, tmp_path)
    shown = ["job 1: PENDING (Resources)", "node1 rank 0: one", "node2 rank 1: two", "job 1: "]
    assert sorted(lines) == sorted(shown)
    out, err = capfd.readouterr()
    assert out == "node1 rank 0: one\nnode2 rank 1: two\n"
    assert err.splitlines() == ["toy: job 1: PENDING (Resources)", "toy: job 1: "]
    assert played.cancelled == [] and not list(tmp_path.iterdir())


def test_a_cluster_that_does_not_answer_is_waited_for(tmp_path):
    assert "no answer about job 1: down" in run(Played([OSError("down"), OSError("down"), RUNNING, DONE]), tmp_path)


@pytest.mark.parametrize(
    ("end", "told", "error", "message"),
    [
        ("failed", [], JobFailed, r"job 1 ended: "),
        ("gone", [], JobFailed, r"job 1 ended: "),
        ("failed", [(1, 5, "KeyError: 3")], JobFailed, r"^KeyError: 3$"),
        ("failed", [(1, 6, "lost"), (1, 5, "KeyError: 3")], JobFailed, r"^KeyError: 3$"),
        ("failed", [(2, 5, "a.b: no")], UserError, r"^a\.b: no$"),
        # The other node fails because the first one does, and may be faster.
        ("failed", [(1, 5, "lost"), (2, 6, "a.b: no")], UserError, r"^a\.b: no$"),
        ("cancelled", [(1, 5, "lost")], JobCancelled, r"job 1 was cancelled"),
    ],
)
def test_ends(tmp_path, end, told, error, message):
    played = Played([RUNNING, State(phase=end)], ended_as=tmp_path / "[files]" / "job")
    played.ended_as.parent.mkdir()
    for node, (code, moment, text) in enumerate(told):
        file = Path(f"{played.ended_as}.{node}")
        file.write_text(json.dumps({"code": code, "time": moment, "message": text}))
    with pytest.raises(error, match=message) as raised:
        run(played, tmp_path / "jobs")
    assert type(raised.value) is error
    assert not list((tmp_path / "jobs").iterdir())


@pytest.fixture
def waited(monkeypatch) -> list[float]:
    """The seconds that would have been waited before the questions for a job that may have been submitted."""
    waits: list[float] = []
    wait = remote.time.sleep
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: waits.append(seconds) if seconds > 1 else wait(seconds))
    return waits


def test_a_job_whose_submission_got_no_answer_is_looked_for(tmp_path, waited):
    played = Played([RUNNING, DONE], refusal=OSError("timed out"), found=[OSError("down"), None, "7"])
    run(played, tmp_path)
    assert (played.submitted, len(waited), played.cancelled) == (1, 3, [])


@pytest.mark.parametrize(("found", "kept"), [([None], False), ([None, OSError("down")], True)])
def test_a_job_that_may_be_there_yet_stays_noted(tmp_path, waited, found, kept):
    played = Played([RUNNING], refusal=OSError("timed out"), found=found)
    with pytest.raises(JobFailed, match=r"far did not take the job: (timed out|down)"):
        run(played, tmp_path)
    assert sum(waited) == 30
    assert record_file(tmp_path, "toy").is_file() == kept
    if kept:
        assert json.loads(record_file(tmp_path, "toy").read_text())["id"] is None


def test_a_cluster_is_told_to_remove_a_job_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "REMIND", 0.02)
    monkeypatch.setattr(remote, "REMOVAL", 0.5)
    played = Played([RUNNING], ends_on=())
    with pytest.raises(DeadlineExceeded):
        run(played, tmp_path, deadline=0.01)
    assert played.cancelled[:3] == [False, True, True]
    assert record_file(tmp_path, "toy").is_file()


@pytest.mark.parametrize(("ends_on", "told"), [((False, True), [False]), ((True,), [False, True])])
def test_a_deadline_counts_what_runs(tmp_path, ends_on, told):
    played = Played([*[WAITING] * 30, RUNNING], ends_on=ends_on)
    following = launcher(played, tmp_path)
    following.grace = 10 if False in ends_on else 0.05
    with pytest.raises(DeadlineExceeded, match="deadline"):
        following.run(JOB, print, deadline=0.1)
    assert played.answers[-1].phase == "cancelled" and played.cancelled == told  # type: ignore[union-attr]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_a_job_that_waits_is_removed_at_once(tmp_path, monkeypatch, error):
    played = Played([WAITING])

    def interrupted(*_):
        raise error

    monkeypatch.setattr(remote.time, "sleep", interrupted)
    with pytest.raises(type(error)):
        run(played, tmp_path)
    assert played.cancelled == [True]


def died(played: Played, folder: Path) -> None:
    """A process that submitted a job, followed it, and was killed."""
    launcher(played, folder)._submit(JOB)


def test_the_job_that_still_runs_is_found(tmp_path, capfd):
    died(played := Played([RUNNING, RUNNING, DONE]), tmp_path)
    assert json.loads(record_file(tmp_path, "toy").read_text())["id"] == "1"
    run(played, tmp_path)
    assert played.submitted == 1
    assert "toy: job 1 of far runs it already; waiting for that one" in capfd.readouterr().err


def test_a_job_is_found_whose_submitter_died_before_the_answer(tmp_path):
    died(played := Played([RUNNING]), tmp_path)
    file = record_file(tmp_path, "toy")
    file.write_text(json.dumps({**json.loads(file.read_text()), "id": None}))
    slurm: Any = played
    found = remote.still_there(tmp_path, "toy", slurm)
    assert found is not None and found.id == "7"


def test_a_job_that_is_over_is_no_hindrance(tmp_path):
    died(played := Played([State(phase="failed"), RUNNING, DONE]), tmp_path)
    run(played, tmp_path)
    assert played.submitted == 2


def test_a_job_of_something_else_is_in_the_way(tmp_path):
    died(played := Played([RUNNING]), tmp_path)
    with pytest.raises(UserError, match=r"job 1 of far still runs it with other parameters, code or inputs: .*`end 1`"):
        launcher(played, tmp_path, "b").run(JOB, print)
    assert (played.submitted, played.cancelled) == (1, [])


def test_a_silent_cluster_is_not_given_a_second_job(tmp_path):
    died(played := Played([OSError("down")]), tmp_path)
    with pytest.raises(UserError, match=r"may still run, and far does not answer \(down\); try again"):
        run(played, tmp_path)
    assert played.submitted == 1
