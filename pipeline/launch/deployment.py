"""Stages as Prefect deployments: started from Prefect's pages, run in this checkout by a worker of a work pool."""

import asyncio
import os
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound

from pipeline.errors import UserError
from pipeline.launch.quiet import leave_soon
from pipeline.launch.repro import run_dvc_stage, stages_of_dvc
from pipeline.launch.server import API_URL, answers

POOL_TYPE = "process"  # of the pools whose workers start a process on their own machine


@flow(name="hvg-stage", flow_run_name="{stage}")
def reproduce(stage: str, force: bool = False) -> None:
    """Bring one DVC stage up to date, or run it again whatever has changed (`force`). It does not look at others."""
    try:
        run_dvc_stage(stage, ["--force"] if force else [], get_run_logger().info)
    except BaseException as error:
        if not isinstance(error, Exception):  # cancelled
            leave_soon(error)
        raise


def deploy(root: Path, pool: str) -> list[str]:
    """Make, or renew, a deployment `hvg-stage/<stage>` of each stage of the graph for the work pool `pool`.

    The pool is made where there is none of that name. Returns the deployments' names. Raises UserError where no server
    answers at PREFECT_API_URL, and for a pool of another type.
    """
    url = os.environ.get(API_URL)
    if not url or not answers(url):
        told = "does not answer" if url else "not set"
        raise UserError(f"{API_URL}: {told}; a deployment needs a server that lasts, as `prefect server start` is")
    asyncio.run(_pool(url, pool))
    names = []
    source: Any = flow.from_source(str(root.resolve()), "pipeline/launch/deployment.py:reproduce")
    for stage in stages_of_dvc():
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
        names.append(f"{reproduce.name}/{stage}")
    return names


async def _pool(url: str, name: str) -> None:
    async with PrefectClient(url) as client:
        try:
            pool = await client.read_work_pool(name)
        except ObjectNotFound:
            pool = await client.create_work_pool(WorkPoolCreate(name=name, type=POOL_TYPE))
    if pool.type != POOL_TYPE:
        raise UserError(f"--pool {name}: it is of type {pool.type}, and stages need a {POOL_TYPE} pool")
