"""Shapes and types are checked while testing: before anything of these packages is imported."""

import signal

from jaxtyping import install_import_hook

from pipeline.machine import bound_spinning

bound_spinning()

# A shell's background jobs ignore Ctrl-C, and so would all that the tests start in order to interrupt it.
signal.signal(signal.SIGINT, signal.default_int_handler)

install_import_hook(
    [
        "models",
        "pipeline.metrics",
        "pipeline.training",
        "pipeline.data.store.codecs",
        "pipeline.data.store.reader",
        "pipeline.data.store.shard_reader",
        "pipeline.data.windows",
    ],
    "beartype.beartype",
)
