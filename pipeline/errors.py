"""What a user can cause and mend."""


class UserError(ValueError):
    """A mistake in a parameter, a file or the machine's set-up: one line that names it and the way out.

    Commands and stages print it without a traceback and exit with code 2. Anything else is a bug and keeps its own.
    """


class Failed(RuntimeError):
    """What ended badly and is nobody's mistake: one line, and exit code 1."""
