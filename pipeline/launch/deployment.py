"""Stages as Prefect deployments: started from Prefect's pages, run in this checkout by a worker of a work pool."""

import os
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound

from pipeline.errors import UserError
from pipeline.launch.job import JobFailed
from pipeline.launch.repro import run_dvc_repro
from pipeline.launch.server import API_URL, answers
from pipeline.paths import Paths


@flow(name="hvg-stage", flow_run_name="{stage}")
def reproduce(stage: str, force: bool = False) -> None:
    """Bring one DVC stage up to date, or run it again whatever has changed (`force`). It does not look at others.

    What the stage prints is in the log of its own flow, hvg-train and the like. Raises JobFailed where it fails.
    """
    arguments = ["--single-item", *(["--force"] if force else []), "--", stage]
    code = run_dvc_repro(Paths().state, arguments, "--wait-for-lock")
    if code:
        raise JobFailed(f"{stage}: dvc ended with exit code {code}")


def deploy(root: Path, pool: str) -> list[str]:
    """Make, or renew, a deployment `hvg-stage/<stage>` of each stage of the graph for the work pool `pool`.

    The pool is made where there is none of that name. Returns the deployments' names. Raises UserError where no server
    answers at PREFECT_API_URL, and for a pool of another type.
    """
    url = os.environ.get(API_URL)
    if not url or not answers(url):
        how = "does not answer" if url else "not set"
        raise UserError(f"{API_URL}: {how}; a deployment needs a server that lasts, as `prefect server start` is")
    with get_client(sync_client=True) as client:
        try:
            found = client.read_work_pool(pool)
        except ObjectNotFound:
            found = client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    if found.type != "process":  # whose workers start a process on their own machine
        raise UserError(f"--pool {pool}: it is of type {found.type}, and stages need a process pool")
    source: Any = flow.from_source(str(root.resolve()), "pipeline/launch/deployment.py:reproduce")
    with Repo() as repo:
        stages = [stage.addressing for stage in repo.index.stages]
    for stage in stages:
        source.deploy(
            stage,
            work_pool_name=pool,
            parameters={"stage": stage},
            tags=["hvg", stage.partition("@")[0]],
            description=f"dvc repro --single-item {stage}",
            build=False,
            push=False,
            print_next_steps=False,
            ignore_warnings=True,
        )
    return [f"{reproduce.name}/{stage}" for stage in stages]
