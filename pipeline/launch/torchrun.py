"""torchrun, which tells by a file how its workers ended, and prints no report: `python -m pipeline.launch.torchrun …`.

Its options and what follows them are torchrun's. A stage's own error stands in torchelastic's error file, which
pipeline.system.stage writes and torchrun reads. The exit code is 2 after a user's mistake, and else that of the first
failure.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import parse_args, run

from pipeline.launch.job import ENDED


def main(arguments: list[str]) -> int:
    """Run torchrun: its exit code."""
    logging.disable(logging.ERROR)  # what it logs of failures and signals is told otherwise
    try:
        run(parse_args(arguments))
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        # A worker that waits for one with a mistake fails as well, perhaps in the same second.
        failure = min(error.failures.values(), key=lambda one: (one.exitcode != 2, one.timestamp))
        code = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        if ENDED in os.environ:
            end = {"code": code, "time": failure.timestamp, "message": _message(failure)}
            Path(f"{os.environ[ENDED]}.{os.environ.get('SLURM_NODEID', '0')}").write_text(json.dumps(end))
        return code
    return 0


def _message(failure: ProcessFailure) -> str:
    """A worker's error in one line."""
    said: Any = failure.message
    if isinstance(said, dict):  # from torchelastic's error file: "KeyError: 3"
        text = said["message"]
        line = text.partition(": ")[2] if failure.exitcode == 2 else text
    else:
        line = f"ended with exit code {failure.exitcode}" if failure.exitcode > 0 else said
    return " ".join(line.split())[:2000]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
