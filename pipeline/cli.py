"""The command line. Heavy libraries are imported by the commands that need them: `hvg --help` answers at once."""

import locale
import logging
import os
import pwd
import signal
import sys
from types import FrameType

import click

from pipeline.commands.bench import bench
from pipeline.commands.metrics import convert_i3d, fetch_i3d, metrics, sample, table4
from pipeline.commands.project import describe, doctor, index, recipe, summary
from pipeline.commands.repro import deploy, repro
from pipeline.commands.runs import runs
from pipeline.commands.stages import run
from pipeline.errors import Failed, UserError, writing
from pipeline.paths import Paths
from pipeline.system.machine import set_up_threads
from pipeline.system.stage import Terminal


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.pass_context
def cli(context: click.Context) -> None:
    """Hierarchical video generation: from a folder of videos to a trained hierarchy, its samples and a report.

    \b
    Begin:
      hvg doctor                                    what is missing on this machine
      hvg recipe shapes                             the embedded data, an hour on two cores
      hvg recipe folder --set data.root=/videos     your own videos
      hvg repro                                     everything that params.yaml asks for
    \b
    Look:
      hvg describe                                  levels, networks, cost of params.yaml
      hvg summary                                   a page over the decoded videos
      hvg runs                                      what was run, side by side
      hvg sample OUT --class NAME                   more videos of the trained levels
      hvg table4 OUT                                numbers of chosen classes
      hvg metrics REAL GENERATED                    FVD, FID, IS of any videos, in any folder
    \b
    One stage by itself (DVC calls these; `dvc repro` runs those that are out of date):
      hvg run train --level 2
    """
    anywhere = context.invoked_subcommand in (metrics.name, fetch_i3d.name, convert_i3d.name)
    if not anywhere and not (Paths().root / "dvc.yaml").is_file():
        raise UserError("dvc.yaml: not in this folder; run hvg in the project's")


_PROJECT = (recipe, index, describe, summary, doctor)
for command in (run, repro, deploy, *_PROJECT, runs, sample, table4, metrics, fetch_i3d, convert_i3d, bench):
    cli.add_command(command)


def _terminate(number: int, _frame: FrameType | None) -> None:
    for again in (signal.SIGTERM, signal.SIGHUP):  # make, timeout and shells send it twice
        signal.signal(again, signal.SIG_IGN)
    sys.exit(128 + number)  # an exception, so that what was started is stopped


def _speak_utf8() -> None:
    """Begin again in UTF-8 where the locale has another encoding: names of files and classes go through it."""
    if not sys.flags.utf8_mode and locale.getencoding().lower() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"  # and what this process starts
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 - no shell


def _have_a_name() -> None:
    """Give an account that the system knows no name of, as in containers, what DVC and MLflow end without."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", f"uid-{os.getuid()}")
        os.environ.setdefault("HOME", str(Paths().state.absolute()))


def main() -> None:
    """The entry point: one line and exit code 2 for what the user can mend, a traceback for bugs."""
    _speak_utf8()
    _have_a_name()
    set_up_threads()
    os.environ |= {"DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[Terminal()])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background ignores it: to stop all the same
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some parents have it, no child's end can be told
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup's wish
        signal.signal(signal.SIGHUP, _terminate)
    try:
        with writing():
            sys.exit(cli.main(standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "hvg"
        message, code = f"{error.format_message()} (`{path} --help` explains)", 2
    except (UserError, Failed) as error:
        message, code = str(error), 2 if isinstance(error, UserError) else 1
    except OSError as error:  # a full disk, a folder where a file should be, or that may not be written
        if error.filename is None:
            raise
        message, code = f"{error.filename2 or error.filename}: {error.strerror}", 2
    except (click.Abort, KeyboardInterrupt):
        message, code = "interrupted", 130
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)
