"""What the machine does while a run lasts: MLflow's own measurements of processor, memory, disk, network and GPUs."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def system_metrics(log: Callable[[dict[str, float]], Any], every: float) -> Iterator[None]:
    """Give `log` numbers named "system/…" every so many seconds of the block, from a thread of their own.

    MLflow's own thread asks the server for the run before each of them and ends where that fails.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id="")  # never started: it collects, it sends nothing
    over = threading.Event()

    def collect() -> None:
        while not over.wait(every):
            monitor.collect_metrics()
            log({f"system/{key}": float(value) for key, value in monitor.aggregate_metrics().items()})
            for one in monitor.monitors:
                one.clear_metrics()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(every)
