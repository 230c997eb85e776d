"""What every stage's process begins and ends with: logging, and failures that the launcher understands."""

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from pipeline.errors import UserError
from pipeline.progress import write_line
from pipeline.tether import die_with_parent

JOB = "HVG_JOB"  # set by the launcher in the processes of its job
# A file in which the workers of a job on one machine find each other: no port is open to the network for that.
MEETING = "HVG_MEETING"
# Begins a stage's last word to its launcher, "<separator>exit <code> <message>". torchrun tells its caller no more than
# "something failed", in 40 lines; the launcher shows what came before this line and reports what stands in it.
LAST_WORD = "\x1e"
# Set where torchrun itself names node and rank before each line: its name for it, and what it then writes.
LABELLED = "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"
LABEL = r"\S+ rank \d+: "
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

    A UserError is one line, `error: …`; anything else keeps its traceback. SIGTERM is the stage's own affair.
    """
    set_up_logging()
    if JOB in os.environ:
        die_with_parent()
    try:
        main()
    except UserError as error:
        _fail(2, str(error))
    except Exception as error:  # noqa: BLE001 - the traceback is printed, the process ends
        traceback.print_exc()
        _fail(1, f"{type(error).__name__}: {error}")


def _fail(code: int, message: str) -> None:
    line = " ".join(message.split())
    if JOB in os.environ:
        os.write(2, f"{LAST_WORD}exit {code} {line[:2000]}\n".encode())  # one write: no other worker's text inside it
    elif code == 2:
        write_line(f"error: {line}")
    sys.exit(code)
