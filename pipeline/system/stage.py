"""What every stage's process begins and ends with: logging, and failures that the launcher understands."""

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from pipeline.errors import UserError, writing
from pipeline.progress import write_line
from pipeline.system.environment import JOB, LABELLED
from pipeline.system.tether import die_with_parent

_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # torchrun's, for what a worker dies of
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Terminal(logging.Handler):
    """Log lines that leave a live progress bar whole. What they quote, such as file names, controls no terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        write_line(_CONTROL.sub(lambda letter: ascii(letter[0])[1:-1], self.format(record)))


def set_up_logging() -> None:
    """Time and message on stderr, with the rank before them where several workers share a terminal."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and LABELLED not in os.environ
    rank = f"[{os.environ.get('RANK', '0')}] " if several else ""
    handler = Terminal()
    handler.setFormatter(logging.Formatter(f"{rank}%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for ours in ("__main__", "stages", "pipeline", "models"):
        logging.getLogger(ours).setLevel(logging.INFO)


def run_stage(main: Callable[[], Any]) -> None:
    """Run a stage's `main` as this process and exit with 0, with 2 after a UserError, with 1 after a bug.

    A UserError is one line, `error: …`, which the launcher prints of its job; anything else keeps its traceback.
    SIGTERM is the stage's own affair.
    """
    set_up_logging()
    if JOB in os.environ:
        die_with_parent()
    try:
        with writing():
            main()
    except UserError as error:
        if JOB not in os.environ:
            write_line(f"error: {' '.join(str(error).split())}")
        _leave(2, error)
    except Exception as error:  # noqa: BLE001 - the traceback is printed, the process ends
        traceback.print_exc()
        _leave(1, error)


def _leave(code: int, error: Exception) -> NoReturn:
    """Exit, with the error in torchelastic's error file where a torchrun is to find it."""
    if _ERROR_FILE in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
    sys.exit(code)
