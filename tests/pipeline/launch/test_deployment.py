"""`hvg deploy`: a real server, a real `prefect worker`, a stage of a made-up project."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from pipeline.launch.server import prefect_server
from tests.pipeline.launch.dvc_project import ROOT, environment, project

DEPLOY = "from pathlib import Path; from pipeline.launch.deployment import deploy; "
DEPLOY += f"print(*deploy(Path({str(ROOT)!r}), 'own pool; touch x'))"
LONG = 'import pathlib, time; pathlib.Path("begun").touch(); time.sleep(600)'
STAGES = {
    "made": {"cmd": "echo made > made", "outs": ["made"]},
    "other": {"cmd": "echo other > other", "outs": ["other"]},
    "long": {"cmd": f"python -c '{LONG}'", "outs": ["long"]},
}


def python(program, folder, **more):
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, env=environment(**more), capture_output=True, text=True, check=False)


def test_a_deployment_needs_a_server_that_lasts(tmp_path):
    for more in ({}, {"PREFECT_API_URL": "http://127.0.0.1:9/api"}):
        done = python(DEPLOY, project(tmp_path / str(len(more)), STAGES), **more)
        assert done.returncode == 1 and "UserError: PREFECT_API_URL: " in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_brings_a_deployed_stage_up_to_date(tmp_path):
    folder = project(tmp_path / "p", STAGES)
    (folder / "pipeline").symlink_to(ROOT / "pipeline")
    with prefect_server(tmp_path / "state") as url:
        env = {"PREFECT_API_URL": url, "PREFECT_HOME": str(tmp_path / "home")}
        done = python(DEPLOY.replace(str(ROOT), str(folder)), folder, **env)
        assert sorted(done.stdout.split()[-3:]) == [f"hvg-stage/{stage}" for stage in sorted(STAGES)], done.stderr
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "own pool; touch x"]
        with (tmp_path / "log").open("w") as log:
            worker = subprocess.Popen(
                command, cwd=tmp_path, env=environment(**env), stdout=log, stderr=log, start_new_session=True
            )
        try:
            run = asyncio.run(asked(url, "hvg-stage/made"))
            stopped, left = asyncio.run(cancelled(url, "hvg-stage/long", folder / "begun"))
        finally:
            os.killpg(worker.pid, signal.SIGTERM)
            worker.wait()
    assert run == ("made", "Completed"), (tmp_path / "log").read_text()
    assert (folder / "made").read_text() == "made\n"
    assert stopped == "Cancelled" and left == [], (tmp_path / "log").read_text()
    assert "made:" in (folder / "dvc.lock").read_text()
    assert not (folder / "other").exists() and not (folder / "x").exists() and not (tmp_path / "x").exists()


async def asked(url, name):
    """The name and end of a deployment's run."""
    from prefect.client.orchestration import PrefectClient

    async with PrefectClient(url) as client:
        deployment = await client.read_deployment_by_name(name)
        run = await client.create_flow_run_from_deployment(deployment.id)
        end = time.monotonic() + 120
        while not (run.state and run.state.is_final()) and time.monotonic() < end:
            await asyncio.sleep(0.5)
            run = await client.read_flow_run(run.id)
        return run.name, run.state_name


async def cancelled(url, name, begun):
    """How a deployment's run ends that is cancelled once `begun` is there, and what lives of it afterwards."""
    from prefect.client.orchestration import PrefectClient
    from prefect.states import Cancelling

    async with PrefectClient(url) as client:
        deployment = await client.read_deployment_by_name(name)
        run = await client.create_flow_run_from_deployment(deployment.id)
        end = time.monotonic() + 120
        while not begun.exists() and time.monotonic() < end:
            await asyncio.sleep(0.2)
        started = [one for one in psutil.process_iter() if LONG in " ".join(of(one))]
        assert started
        await client.set_flow_run_state(run.id, Cancelling())
        while not (run.state and run.state.is_final()) and time.monotonic() < end:
            await asyncio.sleep(0.5)
            run = await client.read_flow_run(run.id)
        return run.state_name, psutil.wait_procs(started, timeout=10)[1]


def of(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []
