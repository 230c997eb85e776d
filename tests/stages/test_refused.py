"""Every stage where folders may not be written, or files not grow: one line, nothing half published, and the same
command ends with the same bytes once it may."""

import json
import os
import resource
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from pipeline.errors import UserError, writing
from tests.stages.by_stages import STEPS, Step, before

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
PLACES = (".", "artifacts", "data", "reports", ".hvg", ".hvg/locks", "mlflow.db")  # and all in them
BYTES = (0, 20_000)  # that a file may have
# Root may write anything, but for its capabilities.
UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """A folder and all in it, or a file."""
    modes = {path: path.stat().st_mode for path in (place, *place.rglob("*")) if not path.is_symlink()}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path in filter(Path.exists, modes):
            path.chmod(modes[path])


@contextmanager
def no_larger(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


FAULTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    **{f"read-only {name}": lambda name=name: read_only(Path(name)) for name in PLACES},
    **{f"files of {size} bytes": lambda size=size: no_larger(size) for size in BYTES},
}


def attempt(folder: Path, step: Step, fault: str) -> dict[str, object] | None:
    """What a step says under a fault, and whether it then makes what it should; None where the fault is none."""
    root = folder / "attempt"
    shutil.rmtree(root, ignore_errors=True)
    before(folder, step, root)
    os.chdir(root)
    place = fault.removeprefix("read-only ")
    if place != fault and not Path(place).exists():
        return None
    said, code = "", 0
    try:
        with FAULTS[fault](), writing():
            step.run()
    except UserError as error:
        said, code = str(error), 2
    except Exception:  # noqa: BLE001 - it is told
        said, code = traceback.format_exc(), 1
    if code:
        step.run()
    differing = step.differing(root, folder / "end")
    left = [str(file) for file in Path().rglob(".*") if file.is_file() and len(file.name) > 32]
    return {"step": str(step), "fault": fault, "code": code, "said": said, "differing": differing, "left": left}


def test_a_refusal_is_one_line_and_costs_nothing(reproduced):
    program = [sys.executable, "-m", "tests.stages.test_refused", str(reproduced)]
    kept = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "WORLD_SIZE")}
    done = subprocess.run(
        [*UNPRIVILEGED, *program], cwd=ROOT, env={**kept, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, check=True
    )
    attempts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    for one in attempts:
        assert one["code"] in (0, 2) and len(one["said"].splitlines()) == one["code"] // 2, one
        assert one["differing"] == one["left"] == [], one
    refused = {(one["step"], one["fault"]) for one in attempts if one["code"]}
    assert {(str(step), fault) for step in STEPS for fault in ("read-only .", "files of 0 bytes")} <= refused


if __name__ == "__main__":
    for step in STEPS:
        for fault in FAULTS:
            if told := attempt(Path(sys.argv[1]), step, fault):
                print(json.dumps(told), flush=True)
