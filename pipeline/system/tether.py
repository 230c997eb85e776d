"""A process that ends when its parent does, even when the parent was killed. Linux; elsewhere nothing happens.

As a program it tethers itself and becomes the command that follows: `python tether.py PARENT COMMAND …`. The command
hears Ctrl-C, also where a script's background has it ignored. That is how a child is tethered without code
between fork and exec, which threads make unsafe. It imports the standard library only: started by its path, before
anything of the project.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int | None = None, number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when the thread that started it ends.

    `parent` is the process id of the parent where the caller knows it: if that one is gone already, the signal comes
    at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - becoming the command is the purpose
