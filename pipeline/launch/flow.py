"""A stage as a Prefect flow: one task that launches its job, tried again after a crash, found again by its name."""

from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import UserError
from pipeline.launch.job import DeadlineExceeded, Job, JobCancelled
from pipeline.launch.quiet import leave_soon, only_prefect_is_told
from pipeline.progress import write_line

RETRY_DELAY = 5.0  # seconds


class Launcher(Protocol):
    """Where a job runs."""

    def run(self, job: Job, on_line, deadline: float | None = None) -> None:
        """Run a job to its end; raise UserError or a kind of JobFailed where it fails."""

    def preview(self, job: Job) -> str:
        """Exactly what `run` would start or submit."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a stage is run, which changes nothing about what it makes."""

    stage: str  # train
    name: str  # train level 2
    tags: tuple[str, ...] = ()
    retries: int = 1  # after a crash
    deadline: float | None = None  # seconds a try
    kept: str = ""  # of one that is stopped, for a person; empty where the stage says so itself


def run_flow(plan: Plan, job: Job, launcher: Launcher) -> None:
    """Run a job as the Prefect flow `hvg-<stage>`, with the server that PREFECT_API_URL names.

    A crash is tried again `retries` times; a user's mistake, an exceeded deadline and a job that was cancelled are not.
    The job's lines go to Prefect's log; the launcher alone writes to the terminal. Raises what the launcher raised
    last.
    """
    # Seconds to import, hence here. Its settings are read at the import, hence after PREFECT_API_URL is set.
    from prefect import flow, get_run_logger, tags, task
    from prefect.client.schemas.objects import State
    from prefect.exceptions import CancelledRun
    from prefect.states import Cancelled

    tried = 0
    cancelled: JobCancelled | None = None

    def again(_task, _run, state) -> bool:
        error = state.result(raise_on_failure=False)
        wanted = isinstance(error, Exception) and not isinstance(error, UserError | DeadlineExceeded)
        if wanted and tried <= plan.retries:
            write_line(f"{plan.name}: {error}; try {tried + 1} of {plan.retries + 1} in {RETRY_DELAY:g} s")
        return wanted

    @task(
        name=job.module,
        task_run_name=plan.name,
        retries=plan.retries,
        retry_delay_seconds=RETRY_DELAY,
        retry_condition_fn=again,
    )
    def launch() -> State | None:
        nonlocal tried, cancelled
        tried += 1
        try:
            launcher.run(job, get_run_logger().info, plan.deadline)
        except JobCancelled as error:
            cancelled = error
            return Cancelled(message=str(error))
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C, TERM, exit
                if plan.kept:
                    write_line(f"{plan.name}: stopped; {plan.kept}")
                leave_soon(error)
            raise

    @flow(name=f"hvg-{plan.stage}", flow_run_name=plan.name, validate_parameters=False)
    def run(module: str, args: tuple[str, ...], workers: int) -> State:  # the parameters are for Prefect's pages
        return launch(return_state=True)

    with only_prefect_is_told(), tags("hvg", plan.stage, *plan.tags):
        try:
            run(job.module, job.args, job.workers)
        except CancelledRun:
            raise cancelled or JobCancelled(f"{plan.name} was cancelled in Prefect", 143) from None
