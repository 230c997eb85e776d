"""The local launcher with real torchrun: streaming, exit codes, and nothing left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from pipeline.errors import UserError
from pipeline.launch.job import Job, JobFailed
from pipeline.launch.local import LocalLauncher

ROOT = Path(__file__).parents[3]
SLEEP = """
    import pathlib
    {before}
    child = subprocess.Popen(["sleep", "{seconds}"])
    pathlib.Path("{pids}", os.environ["RANK"]).write_text(f"{{os.getpid()}} {{child.pid}}")
    print("sleeps")
    time.sleep({seconds})
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A function that writes a stage and returns its job; the argument is the inside of its main()."""

    def write(body: str, workers: int = 1) -> Job:
        lines = ["import os, signal, subprocess, sys, time", "from pipeline.errors import UserError"]
        lines += [
            "from pipeline.system.stage import run_stage",
            "def main():",
            textwrap.indent(textwrap.dedent(body), "    "),
        ]
        (tmp_path / "toy.py").write_text("\n".join([*lines, "run_stage(main)"]))
        return Job(module="toy", workers=workers)

    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return write


def run(job: Job, tmp_path: Path) -> list[str]:
    lines = []
    LocalLauncher(tmp_path / "logs" / "toy.log", grace=10).run(job, lines.append)
    return lines


def written(folder: Path, workers: int) -> list[int]:
    """The process ids that the workers of SLEEP have written, once all have."""
    for _ in range(600):
        texts = [file.read_text().split() for file in folder.iterdir()]
        if len(texts) == workers and all(len(text) == 2 for text in texts):
            return [int(pid) for text in texts for pid in text]
        time.sleep(0.1)
    raise AssertionError("the workers did not start")


def alive(pids: list[int], seconds: float = 5) -> list[int]:
    end = time.monotonic() + seconds
    left = pids
    while left and time.monotonic() < end:
        left = [pid for pid in left if running(pid)]
        time.sleep(0.05)
    return left


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_streams_lines_as_they_come_and_shares_the_cores(toy, tmp_path, capfdbinary, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    job = toy("print('one', os.environ['OMP_NUM_THREADS']); sys.stderr.write('\\rbar 1\\rbar 2\\n')")
    lines = run(job, tmp_path)
    assert lines == [f"one {len(os.sched_getaffinity(0))}", "bar 2"]
    assert capfdbinary.readouterr().out == f"{lines[0]}\n\rbar 1\rbar 2\n".encode()
    assert [file.name for file in (tmp_path / "logs").iterdir()] == ["toy.log"]


def test_a_user_error_is_its_one_line(toy, tmp_path, capfdbinary):
    job = toy("sys.stderr.write('before\\n'); raise UserError('data.root: no such folder')", workers=2)
    with pytest.raises(UserError, match=r"^data\.root: no such folder$"):
        run(job, tmp_path)
    assert set(capfdbinary.readouterr().out.splitlines()) == {b"before"}  # and nothing of torchrun's report
    assert [file.name for file in (tmp_path / "logs").iterdir()] == ["toy.log"]


def test_a_bug_keeps_its_traceback(toy, tmp_path, capfdbinary):
    with pytest.raises(JobFailed, match="ZeroDivisionError: division by zero"):
        run(toy("1 / 0"), tmp_path)
    out = capfdbinary.readouterr().out
    assert b"Traceback" in out and b"ChildFailedError" not in out


def test_a_killed_worker_is_a_failure(toy, tmp_path):
    with pytest.raises(JobFailed, match=r"^Signal 9 \(SIGKILL\) received by PID \d+$"):
        run(toy("os.kill(os.getpid(), signal.SIGKILL)"), tmp_path)


def test_a_worker_without_a_word_is_told_by_its_code(toy, tmp_path):
    with pytest.raises(JobFailed, match=r"^ended with exit code 3$"):
        run(toy("os._exit(3)"), tmp_path)


@pytest.mark.parametrize("before", ["pass", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"], ids=["polite", "deaf"])
def test_an_exception_leaves_nothing_behind(toy, tmp_path, before):
    pids = tmp_path / "pids"
    pids.mkdir()
    job = toy(SLEEP.format(before=before, seconds=120, pids=pids), workers=1)

    def stop(line: str) -> None:
        raise KeyError(line)

    with pytest.raises(KeyError, match="sleeps"):
        LocalLauncher(tmp_path / "logs" / "toy.log", grace=1).run(job, stop)
    assert not alive(written(pids, 1))


def test_what_a_job_says_of_its_end_is_shown_while_it_is_waited_for(toy, tmp_path):
    job = toy(
        """
        import time
        def end(*_):
            print("nothing is saved", flush=True)
            time.sleep(3)
            os._exit(1)
        signal.signal(signal.SIGTERM, end)
        print("begun", flush=True)
        time.sleep(120)
        """
    )
    heard: dict[str, float] = {}

    def stop(line: str) -> None:
        heard[line] = time.monotonic()
        if line == "begun":
            raise KeyError

    with pytest.raises(KeyError):
        LocalLauncher(tmp_path / "logs" / "toy.log", grace=20).run(job, stop)
    assert time.monotonic() - heard["nothing is saved"] > 2


def test_a_job_whose_log_is_tidied_up_goes_on(toy, tmp_path):
    logs = tmp_path / "logs"
    job = toy(f"import pathlib, time; [f.unlink() for f in pathlib.Path({str(logs)!r}).iterdir()]; time.sleep(1)")
    assert run(job, tmp_path) == []


def test_what_hides_from_the_end_of_its_job_is_not_waited_for(toy, tmp_path):
    """With an environment and a session of its own, and the job's output."""
    job = toy(
        f"""
        import pathlib, shutil
        child = subprocess.Popen([shutil.which("sleep"), "120"], env={{}}, start_new_session=True)
        pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
        print("one")
        """
    )
    try:
        assert run(job, tmp_path) == ["one"]
        assert running(int((tmp_path / "pid").read_text()))
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="the tether is Linux's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_leave_nothing_behind(toy, tmp_path, number):
    pids = tmp_path / "pids"
    pids.mkdir()
    toy(SLEEP.format(before="pass", seconds=120, pids=pids), workers=2)
    program = f"""if True:
        import signal, sys
        from pathlib import Path
        from pipeline.launch.job import Job
        from pipeline.launch.local import LocalLauncher
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        LocalLauncher(Path({str(tmp_path / "logs" / "x.log")!r})).run(
            Job(module="toy", workers=2), print)
    """
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    children = written(pids, 2)
    parent.send_signal(number)
    assert parent.wait(60) != 0
    assert not alive(children)


def test_no_port_is_open_to_the_network(toy, tmp_path):
    job = toy(
        """
        import psutil
        import torch
        from pipeline.workers import join_workers
        with join_workers() as workers:
            torch.distributed.all_reduce(torch.ones(1))
            if workers.rank == 0:
                torchrun = psutil.Process().parent()
                family = [torchrun, *torchrun.children(recursive=True)]
                open_ports = [port for one in family for port in one.net_connections() if port.status == "LISTEN"]
                print("listens on", *sorted({port.laddr.ip for port in open_ports}))
            workers.wait()
        """,
        workers=2,
    )
    (told,) = [line for line in run(job, tmp_path) if line.startswith("listens on")]
    assert set(told.split()[2:]) <= {"127.0.0.1", "::1"}
