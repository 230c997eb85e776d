"""A stage's flow against a real Prefect server, with a launcher that plays the job."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.launch.server import answers, prefect_server

ROOT = Path(__file__).parents[3]
PROGRAM = """if True:
    import asyncio, json, sys
    from pipeline.errors import UserError
    from pipeline.launch import flow
    from pipeline.launch.job import Job, JobCancelled, JobFailed

    flow.RETRY_SECONDS = 0.1

    class Played:
        def __init__(self, *ends):
            self.ends, self.calls = list(ends), 0
        def run(self, job, on_line):
            self.calls += 1
            on_line(f"a line of try {self.calls}")
            end = self.ends.pop(0)
            if end:
                raise end

    def play(name, *ends, retries=1):
        launcher = Played(*ends)
        try:
            about = {"stage": "toy", "name": name, "labels": ("level-2",), "retries": retries}
            flow.run_flow(Job(module="stages.toy"), launcher, **about)
            return launcher.calls, "fine"
        except Exception as error:
            return launcher.calls, f"{type(error).__name__}: {error}"

    ends = {
        "good": play("toy good", None),
        "crash": play("toy crash", JobFailed("oom"), None),
        "crashes": play("toy crashes", JobFailed("oom"), JobFailed("oom again")),
        "mistake": play("toy mistake", UserError("a.b: no"), None),
        "cancelled": play("toy cancelled", JobCancelled("by scancel"), None),
    }

    flow._leave_soon = lambda _: None  # this process goes on
    try:
        stopped = {"stage": "toy", "name": "toy stopped", "kept": "half of it is saved"}
        flow.run_flow(Job(module="stages.toy"), Played(KeyboardInterrupt()), **stopped)
    except KeyboardInterrupt:
        ends["stopped"] = "by Ctrl-C"

    from prefect import get_client
    from prefect.client.schemas.filters import LogFilter
    import time

    async def seen():
        async with get_client() as client:
            runs = {run.name: run for run in await client.read_flow_runs()}
            for _ in range(50):
                logs = [log.message for log in await client.read_logs(LogFilter())]
                if "a line of try 2" in logs:
                    break
                time.sleep(0.1)
            return {n: [r.state_name, sorted(r.tags)] for n, r in runs.items()}, logs
    runs, logs = asyncio.run(seen())
    sys.stdout.write(json.dumps({"ends": ends, "runs": runs, "logs": logs}))
"""

GONE = """if True:
    import sys
    import psutil
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
    from pipeline.launch import flow
    from pipeline.launch.job import Job

    flow.FLUSH_SECONDS = 1

    class Played:
        def run(self, job, on_line):
            for server in sys.argv[1].split(","):
                if psutil.pid_exists(int(server)):
                    psutil.Process(int(server)).kill()
            on_line("a line")

    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):  # which would take minutes
        for args in ((), ()):
            try:
                flow.run_flow(Job(module="stages.toy", args=args), Played(), stage="toy", name="toy", retries=0)
                sys.stdout.write("done;")
            except Exception as error:
                sys.stdout.write(f"{type(error).__name__}: {error};")
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):  # a company's, which knows no loopback of ours
            patch.setenv(name, "http://127.0.0.1:9")
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "intranet")
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        with prefect_server(state) as url:
            ours = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
            sockets = [one for child in ours for one in child.net_connections("inet")]
            listening = {one.laddr for one in sockets if one.status == psutil.CONN_LISTEN}
            assert int(url.split(":")[2].partition("/")[0]) in {address.port for address in listening}
            assert {address.ip for address in listening} == {"127.0.0.1"}
            assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "intranet,127.0.0.1,localhost"
            env = {**os.environ, "PREFECT_API_URL": url, "PREFECT_HOME": str(state / "client")}
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM], cwd=ROOT, env=env, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
    assert not answers(url)  # it ended with the block
    return json.loads(done.stdout), done.stderr


def test_only_crashes_are_tried_again(played):
    assert played[0]["ends"] == {
        "good": [1, "fine"],
        "crash": [2, "fine"],
        "crashes": [2, "JobFailed: oom again"],
        "mistake": [1, "UserError: a.b: no"],
        "cancelled": [1, "JobCancelled: by scancel"],
        "stopped": "by Ctrl-C",
    }


def test_runs_are_found_by_name_and_tags(played):
    assert played[0]["runs"]["toy crash"] == ["Completed", ["hvg", "level-2", "toy"]]
    assert played[0]["runs"]["toy mistake"][0] == "Failed"
    assert played[0]["runs"]["toy cancelled"][0] == "Cancelled"


def test_lines_reach_prefect_and_not_the_terminal(played):
    seen, stderr = played
    assert "a line of try 1" in seen["logs"]
    assert "a line of try" not in stderr
    assert stderr.splitlines() == [
        "toy crash: oom; try 2 of 2 in 0.1 s",
        "toy crashes: oom; try 2 of 2 in 0.1 s",
        "toy stopped: stopped; half of it is saved",
    ]


def test_a_server_that_goes_away_costs_no_finished_job(tmp_path):
    """Of the second job it is gone from the start."""
    with prefect_server(tmp_path) as url:
        servers = ",".join(str(child.pid) for child in psutil.Process().children(recursive=True))
        env = {**os.environ, "PREFECT_API_URL": url, "PREFECT_HOME": str(tmp_path / "client")}
        done = subprocess.run(
            [sys.executable, "-c", GONE, servers], cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
    assert done.stdout == "done;Failed: toy: Prefect's server went away before the job began;"
    assert "toy: done, which Prefect's server was not told: " in done.stderr and "Traceback" not in done.stderr
