"""A stage as a Prefect flow: one task that launches its job, tried again after a crash, found again by its name."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

from pipeline.errors import Failed, UserError
from pipeline.launch.job import Job, JobCancelled
from pipeline.launch.local import LocalLauncher
from pipeline.launch.remote import ClusterLauncher
from pipeline.progress import write_line
from pipeline.system.processes import LEAVE_SECONDS

RETRY_SECONDS = 5.0
FLUSH_SECONDS = 10.0  # that Prefect's server may take for what it has not been told yet


def run_flow(
    job: Job,
    launcher: LocalLauncher | ClusterLauncher,
    *,
    stage: str,
    name: str,  # train level 2
    labels: tuple[str, ...] = (),
    retries: int = 1,
    kept: str = "",
) -> None:
    """Run a job as the Prefect flow `hvg-<stage>`, with the server that PREFECT_API_URL names.

    A crash is tried again `retries` times; a user's mistake and a job that was cancelled are not. The job's lines go to
    Prefect's log; the launcher alone writes to the terminal, but for what is `kept` of a stage that is stopped and does
    not say so itself. Raises what the launcher raised last.
    """
    # Seconds to import, hence here. Its settings are read at the import, hence after PREFECT_API_URL is set.
    from httpx import HTTPError
    from prefect import flow, get_run_logger, tags, task
    from prefect.client.schemas.objects import State
    from prefect.exceptions import CancelledRun
    from prefect.states import Cancelled

    outcome: BaseException | None = Failed(f"{name}: Prefect's server went away before the job began")

    def again(_task, run, state) -> bool:
        error = state.result(raise_on_failure=False)
        wanted = isinstance(error, Exception) and not isinstance(error, UserError)
        if wanted and (tries := run.run_count) <= retries:
            write_line(f"{name}: {error}; try {tries + 1} of {retries + 1} in {RETRY_SECONDS:g} s")
        return wanted

    @task(
        name=job.module,
        task_run_name=name,
        retries=retries,
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=again,
    )
    def launch() -> State | None:
        nonlocal outcome
        try:
            launcher.run(job, get_run_logger().info)
            outcome = None
        except JobCancelled as error:
            outcome = error
            return Cancelled(message=str(error))
        except BaseException as error:
            outcome = error
            if not isinstance(error, Exception):  # Ctrl-C, TERM, exit
                if kept:
                    write_line(f"{name}: stopped; {kept}")
                _leave_soon(error)
            raise

    @flow(name=f"hvg-{stage}", flow_run_name=name, validate_parameters=False)
    def run(module: str, args: tuple[str, ...], workers: int) -> State:  # the parameters are for Prefect's pages
        return launch(return_state=True)

    with _only_prefect_is_told(), tags("hvg", stage, *labels):
        try:
            run(job.module, job.args, job.workers)
        except CancelledRun:
            if not isinstance(outcome, JobCancelled):
                outcome = JobCancelled(f"{name} was cancelled in Prefect")
            raise outcome from None
        except HTTPError as error:
            if outcome is not None:
                raise outcome from None
            write_line(f"{name}: done, which Prefect's server was not told: {error}")


@contextlib.contextmanager
def _only_prefect_is_told() -> Iterator[None]:
    """What flows and tasks log in the block goes to Prefect's server; at its end the server has it all."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for runs in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(runs).setLevel(logging.INFO)
        logging.getLogger(runs).propagate = False  # to the terminal: what is in there stands on it already
    try:
        yield
    finally:
        # Lines and states are still on their way, and the server may end with this call. Prefect itself would send
        # them at the interpreter's end, and try for minutes.
        EventsWorker.drain_all(timeout=FLUSH_SECONDS)
        APILogWorker.drain_all(timeout=FLUSH_SECONDS)


def _leave_soon(error: BaseException) -> None:
    """After Ctrl-C, TERM (which Prefect makes a signal of its own) or an exit, end this process in a few seconds.

    What it ran is stopped, and Prefect tries for minutes to tell a server that is gone as well. Servers that this
    process has started end with it.
    """
    timer = threading.Timer(LEAVE_SECONDS, os._exit, (130 if isinstance(error, KeyboardInterrupt) else 143,))
    timer.daemon = True
    timer.start()
