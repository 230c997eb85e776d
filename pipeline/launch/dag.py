"""DVC's graph as one Prefect flow: a task a stage, those that do not depend on each other side by side."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.launch.quiet import leave_soon, only_prefect_is_told
from pipeline.launch.repro import Repros, run_dvc_repro
from pipeline.launch.server import API_URL, prefect_server

# What the flow hands on to each stage's `dvc repro`; the rest of dvc's options say which stages there are.
_HANDED_ON = ("force", "no_commit", "no_run_cache", "pull", "allow_missing")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage to bring up to date."""

    stage: str  # train-level@2
    after: tuple[str, ...]  # the stages that it waits for


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What is to be done, dependencies first."""

    steps: tuple[Step, ...]
    options: tuple[str, ...]  # of each `dvc repro --single-item`
    ignore_errors: bool  # what waits for a failed stage runs all the same


def plan(arguments: Sequence[str]) -> Graph | None:
    """What `dvc repro` with these targets and options would look at, in this folder.

    None where the options make sense in one process only: they ask, they need the order of the command line, or one
    stage's fate decides about another. Raises UserError where dvc has no such target or option.
    """
    from dvc.cli import DvcParserError
    from dvc.cli.parser import get_main_parser
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    try:
        given, unknown = get_main_parser().parse_known_args(["repro", *arguments])
    except DvcParserError as error:
        raise UserError("`dvc repro --help` names the targets and options") from error
    if unknown:
        raise UserError(f"{' '.join(unknown)}: no option of `dvc repro`, whose --help names them")
    whole = given.pipeline or given.all_pipelines
    if given.interactive or given.dry or given.force_downstream or (given.single_item and not whole):
        return None
    try:
        with Repo() as repo:
            stages = []
            if not given.all_pipelines:
                stages = collect_stages(repo, given.targets or ["dvc.yaml"], given.recursive, given.glob)
            graph = get_active_graph(repo.index.graph)
            chosen = plan_repro(graph, stages, given.pipeline, given.downstream and not whole)
            steps = tuple(
                Step(
                    stage=stage.addressing,
                    after=tuple(sorted(other.addressing for other in graph.successors(stage) if other in chosen)),
                )
                for stage in chosen
            )
    except DvcException as error:
        raise UserError(str(error)) from error
    options = [f"--{name.replace('_', '-')}" for name in _HANDED_ON if getattr(given, name)]
    options += ["--verbose"] * given.verbose + ["--quiet"] * given.quiet
    return Graph(steps=steps, options=tuple(options), ignore_errors=given.on_error == "ignore")


def run_dag(state: Path, arguments: Sequence[str], jobs: int) -> int:
    """Bring stages up to date, at most `jobs` at a time, and return an exit code as `dvc repro` does.

    A stage that fails keeps those from running that depend on it, and no others. Whatever ends this call, nothing that
    it started lives on.
    """
    graph = plan(arguments)
    if graph is None:
        return run_dvc_repro(state, arguments)
    with prefect_server(state) as url:
        os.environ[API_URL] = url
        os.environ.setdefault("PREFECT_HOME", str((state / "prefect").resolve()))
        return _run(graph, jobs)


def _run(graph: Graph, jobs: int) -> int:
    # Seconds to import, hence here. Its settings are read at the import, hence after PREFECT_API_URL is set.
    from prefect import allow_failure, flow, get_run_logger, tags, task
    from prefect.client.schemas.objects import State
    from prefect.futures import PrefectFuture
    from prefect.states import Completed, Failed
    from prefect.task_runners import ThreadPoolTaskRunner

    running = Repros(jobs)

    @task(task_run_name="{stage}")
    def reproduce(stage: str) -> None:
        running.run(stage, graph.options, get_run_logger().info)

    submit: Any = reproduce.submit  # Any: its overloads know no task without a result
    # A stage that waits takes a thread as well; how many work at a time is `running`'s affair.
    runner: Any = ThreadPoolTaskRunner(max_workers=max(1, len(graph.steps)))

    @flow(name="hvg-dag", task_runner=runner)
    def dag(stages: list[str]) -> State:  # the parameter is for Prefect's pages
        futures: dict[str, PrefectFuture[None]] = {}
        try:
            for step in graph.steps:
                before = [futures[name] for name in step.after]
                wait_for: Any = [allow_failure(future) for future in before] if graph.ignore_errors else before
                futures[step.stage] = submit(step.stage, wait_for=wait_for)
            for future in futures.values():
                future.wait()
        except BaseException as error:
            try:
                running.stop()  # first: it may take longer than is left after `leave_soon`
            finally:
                leave_soon(error)
            raise
        failed = [name for name, future in futures.items() if future.state.is_failed()]
        skipped = [name for name, future in futures.items() if not future.state.is_final()]
        if not failed:
            return Completed()
        told = f"failed: {', '.join(failed)}" + (f"; not run: {', '.join(skipped)}" if skipped else "")
        return Failed(message=told)

    with only_prefect_is_told(), tags("hvg", "dag"):
        end: State = dag([step.stage for step in graph.steps], **{"return_state": True})
    if end.is_completed():
        return 0
    sys.stdout.write(f"{end.message}\n")
    return 0 if graph.ignore_errors else 255
