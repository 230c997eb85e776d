"""Following a job on a cluster, with a Slurm that is played: its commands, not ours."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.errors import Failed, UserError
from pipeline.launch import remote, slurm
from pipeline.launch.clusters import SlurmCluster
from pipeline.launch.job import Job, JobCancelled, JobFailed
from pipeline.launch.remote import ClusterLauncher
from pipeline.launch.slurm import Slurm

JOB = Job(module="stages.toy")
WAITING, RUNNING, DONE, FORGOTTEN = "PENDING (Resources)", "RUNNING node[1-2]", "COMPLETED node[1-2]", ""


@dataclass
class Played:
    """A Slurm where each question for the submitted job's state gets the next answer, the last one again and again."""

    answers: list[str | Exception]
    lines: list[bytes] = field(default_factory=list)  # printed before each question
    ends_on: tuple[bool, ...] = (False, True)  # TERM, removal: which cancellations end the job
    refusal: BaseException | None = None  # of what is submitted
    living: bool = False  # an earlier process has submitted it
    earlier: str = ""  # what squeue lists of other jobs
    at_start: Callable[[Slurm], object] = lambda _: None
    submitted: int = 0
    cancelled: list[bool] = field(default_factory=list)

    def launcher(self, root: Path, inputs: str = "a" * 64, grace: float = 0.05) -> ClusterLauncher:
        cluster = SlurmCluster(launcher="slurm", poll=0.01)
        self.job = ClusterLauncher(cluster=cluster, root=root, stage="toy", inputs=inputs, grace=grace)
        return self.job

    def __call__(self, command: list[str], env: dict[str, str] | None = None) -> str:
        match command[0]:
            case "sbatch":
                assert f"--job-name={self.job.name}" in command
                self.submitted += 1
                self.at_start(self.job)
                if self.refusal is not None:
                    raise self.refusal
                return "7\n"
            case "scancel":
                assert command[-1] == f"--name={self.job.name}"
                self.cancelled.append("--signal=TERM" not in command)
                if self.cancelled[-1] in self.ends_on and self.answers[0] != FORGOTTEN:
                    self.answers = ["CANCELLED"]
                return ""
        assert "--states=all" in command
        if not self.submitted and not self.living:
            if isinstance(self.answers[0], OSError):
                raise self.answers[0]
            return self.earlier
        if self.lines:
            with self.job.log.open("ab") as log:
                log.write(self.lines.pop(0))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return self.earlier + (f"7 {self.job.name} {answer}\n" if answer else "")


@pytest.fixture
def play(monkeypatch, tmp_path):
    """Run a job through a played Slurm: the lines that Prefect would be told."""
    monkeypatch.setattr(remote, "LOOK_SECONDS", 0.005)
    monkeypatch.setattr(remote, "LOST_SECONDS", 0.5)

    def run(played: Played, *, inputs: str = "a" * 64, grace: float = 0.05, stop_at: str | None = None) -> list[str]:
        monkeypatch.setattr(slurm, "_ask", played)
        lines: list[str] = []

        def told(line: str) -> None:
            lines.append(line)
            if stop_at and stop_at in line and len([one for one in lines if stop_at in one]) == 1:
                raise KeyboardInterrupt

        played.launcher(tmp_path, inputs, grace).run(JOB, told)
        return lines

    return run


def test_lines_and_states_are_told_once(play, capfd):
    played = Played([WAITING, WAITING, RUNNING, RUNNING, DONE], [b"", b"node1 rank 0: o", b"ne\nnode2 rank 1: two\n"])
    shown = ["job 7: PENDING (Resources)", "node1 rank 0: one", "node2 rank 1: two", "job 7: RUNNING node[1-2]"]
    assert sorted(play(played)) == sorted(shown)
    out, err = capfd.readouterr()
    assert out == "node1 rank 0: one\nnode2 rank 1: two\n"
    assert err.splitlines() == ["toy: job 7: PENDING (Resources)", "toy: job 7: RUNNING node[1-2]"]
    assert (played.submitted, played.cancelled) == (1, [])


def test_a_cluster_that_does_not_answer_is_waited_for(play):
    lines = play(Played([RUNNING, OSError("down"), OSError("down"), RUNNING, DONE]))
    assert lines.count("no answer about job 7: down") == 1


def test_a_command_that_is_away_for_a_while_is_waited_for(play):
    away = UserError("squeue: not on this machine; run hvg where jobs are submitted")
    played = Played([RUNNING, away, RUNNING, DONE])
    assert f"no answer about job 7: {away}" in play(played)
    assert (played.submitted, played.cancelled) == (1, [])


@pytest.mark.parametrize(
    ("end", "told", "error", "message"),
    [
        ("FAILED (NonZeroExitCode)", [], JobFailed, r"^job 7 ended: FAILED \(NonZeroExitCode\)$"),
        (FORGOTTEN, [], JobFailed, r"^job 7 ended: UNKNOWN to Slurm$"),
        ("FAILED", [(1, 5, "KeyError: 3")], JobFailed, r"^KeyError: 3$"),
        ("FAILED", [(1, 6, "lost"), (1, 5, "KeyError: 3")], JobFailed, r"^KeyError: 3$"),
        ("FAILED", [(2, 5, "a.b: no")], UserError, r"^a\.b: no$"),
        # The other node fails because the first one does, and may be faster.
        ("FAILED", [(1, 5, "lost"), (2, 6, "a.b: no")], UserError, r"^a\.b: no$"),
        ("CANCELLED", [(1, 5, "lost")], JobCancelled, r"^job 7 was cancelled"),
    ],
)
def test_ends(play, end, told, error, message):
    def write(job: Slurm) -> None:
        for node, (code, moment, text) in enumerate(told):
            Path(f"{job.files}.ended.{node}").write_text(json.dumps({"code": code, "time": moment, "message": text}))

    with pytest.raises(error, match=message) as raised:
        play(Played([RUNNING, end], at_start=write))
    assert type(raised.value) is error


@pytest.mark.parametrize(("code", "well"), [("0\n", True), ("1\n", False), ("", False)])
def test_a_job_that_slurm_has_forgotten_ended_as_its_script_says(play, code, well):
    played = Played([RUNNING, FORGOTTEN], at_start=lambda job: Path(f"{job.files}.code").write_text(code))
    if well:
        play(played)
    else:
        with pytest.raises(JobFailed, match=r"^job 7 ended: UNKNOWN to Slurm$"):
            play(played)
    played = Played([FORGOTTEN])  # the next one has not begun
    with pytest.raises(JobFailed, match=r"ended: UNKNOWN to Slurm$"):
        play(played)
    assert played.submitted == 1


def test_how_an_earlier_job_of_the_name_ended_says_nothing_of_this_one(play):
    def write(job: Slurm) -> None:
        Path(f"{job.files}.ended.0").write_text(json.dumps({"code": 2, "time": 1, "message": "a.b: no"}))

    with pytest.raises(UserError):
        play(Played(["FAILED"], at_start=write))
    with pytest.raises(JobFailed, match="job 7 ended: NODE_FAIL"):
        play(Played(["NODE_FAIL"]))


def named(root: Path, inputs: str = "a" * 64) -> str:
    return Played([]).launcher(root, inputs).name


def test_a_job_whose_submission_got_no_answer_is_followed_where_it_is_there(play, tmp_path):
    lost = OSError("sbatch: error: Socket timed out on send/recv")
    with pytest.raises(JobFailed, match=r"ended: UNKNOWN to Slurm"):
        play(Played([FORGOTTEN], refusal=lost))
    played = Played([FORGOTTEN, FORGOTTEN, RUNNING, DONE], refusal=lost)
    played.earlier = f"6 {named(tmp_path)} FAILED (NonZeroExitCode)\n"
    assert "no answer to the submission: sbatch: error: Socket timed out on send/recv" in play(played)
    assert (played.submitted, played.cancelled) == (1, [])


def test_a_refused_job_is_a_users_mistake(play):
    played = Played([RUNNING], refusal=OSError("sbatch: error: invalid partition specified: x"))
    with pytest.raises(UserError, match="Slurm refuses the job: sbatch: error: invalid partition specified: x"):
        play(played)
    assert played.cancelled == []


def test_ctrl_c_while_it_is_submitted_removes_it(play):
    played = Played([WAITING], refusal=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        play(played)
    assert played.cancelled == [True]


def test_how_an_earlier_job_of_the_name_ended_is_not_how_a_lost_one_does(play, tmp_path):
    lost = OSError("sbatch: error: Socket timed out on send/recv")
    with pytest.raises(JobFailed, match=r"ended: UNKNOWN to Slurm"):
        play(Played([FORGOTTEN], refusal=lost, earlier=f"6 {named(tmp_path)} COMPLETED node1\n"))


def test_ctrl_c_while_it_is_submitted_removes_it_also_where_it_arrives_late(play, tmp_path):
    earlier = f"6 {named(tmp_path)} CANCELLED node1\n"
    played = Played([*[FORGOTTEN] * 3, WAITING], refusal=KeyboardInterrupt(), earlier=earlier)
    with pytest.raises(KeyboardInterrupt):
        play(played)
    assert played.answers == ["CANCELLED"] and played.cancelled == [True] * 4


def test_a_cluster_is_told_to_remove_a_job_again_and_again(play, monkeypatch, capfd):
    monkeypatch.setattr(remote, "REMOVAL_SECONDS", 0.5)
    played = Played([RUNNING], ends_on=())
    with pytest.raises(KeyboardInterrupt):
        play(played, stop_at="RUNNING")
    assert played.cancelled[:3] == [False, True, True]
    assert f"toy: job 7 may still run: `scancel --name={played.job.name}`" in capfd.readouterr().err


@pytest.mark.parametrize(("ends_on", "told"), [((False, True), [False]), ((True,), [False, True])])
def test_a_job_that_runs_has_time_to_save(play, ends_on, told):
    played = Played([WAITING, RUNNING], ends_on=ends_on)
    with pytest.raises(KeyboardInterrupt):
        play(played, stop_at="RUNNING", grace=10 if False in ends_on else 0.05)
    assert played.answers == ["CANCELLED"] and played.cancelled == told


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_a_job_that_waits_is_removed_at_once(play, monkeypatch, error):
    played = Played([WAITING])

    def interrupted(*_):
        raise error

    monkeypatch.setattr(remote.time, "sleep", interrupted)
    with pytest.raises(type(error)):
        play(played)
    assert played.cancelled == [True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_leaves_no_job(play, number):
    """make, timeout and shells send two."""

    def heard(*_):
        raise SystemExit(143)

    class Impatient(Played):
        def __call__(self, command, env=None):
            if command[0] == "scancel":
                os.kill(os.getpid(), number)
            return super().__call__(command, env)

    before = signal.signal(number, heard)
    try:
        played = Impatient([RUNNING], ends_on=(True,))
        with pytest.raises(KeyboardInterrupt):
            play(played, stop_at="RUNNING")
    finally:
        signal.signal(number, before)
    assert played.cancelled == [False, True] and played.answers == ["CANCELLED"]


def test_the_job_that_still_runs_is_found(play, capfd):
    played = Played([RUNNING, DONE], living=True, earlier="6 another RUNNING node1\n")
    play(played)
    assert played.submitted == 0
    assert "toy: job 7 runs it already; waiting for that one" in capfd.readouterr().err


@pytest.mark.parametrize("living", [False, True])
def test_what_was_said_before_is_not_said_again(play, tmp_path, capfd, living):
    played = Played([RUNNING, DONE], [b"now\n"], living=living)
    log = played.launcher(tmp_path).log
    log.parent.mkdir(parents=True)
    log.write_bytes(b"before\n")
    play(played)
    assert capfd.readouterr().out == "now\n"


def test_a_job_of_something_else_is_in_the_way(play, tmp_path):
    played = Played([RUNNING], earlier=f"6 {named(tmp_path, 'b' * 64)} RUNNING node1\n")
    with pytest.raises(UserError, match=r"job 6 still runs it with other parameters, code or inputs: .*`scancel 6`"):
        play(played)
    assert (played.submitted, played.cancelled) == (0, [])


def test_a_job_of_another_checkout_is_not(play, tmp_path):
    played = Played([RUNNING, DONE], earlier=f"6 {named(tmp_path / 'other', 'b' * 64)} RUNNING node1\n")
    play(played)
    assert (played.submitted, played.cancelled) == (1, [])


def test_a_silent_cluster_is_not_given_a_second_job(play):
    played = Played([OSError("down")])
    with pytest.raises(Failed, match=r"toy: Slurm does not answer whether a job runs it: down"):
        play(played)
    assert played.submitted == 0
