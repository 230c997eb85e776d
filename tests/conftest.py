"""Shapes and types are checked while testing: before anything of these packages is imported."""

import signal

import pytest
from jaxtyping import install_import_hook

from pipeline.system.machine import set_up_threads

set_up_threads()

# A shell's background jobs ignore Ctrl-C, and so would all that the tests start in order to interrupt it.
signal.signal(signal.SIGINT, signal.default_int_handler)

install_import_hook(
    [
        "models",
        "pipeline.metrics",
        "pipeline.training",
        "pipeline.generation",
        "pipeline.data.pixels",
        "pipeline.data.store.codecs",
        "pipeline.data.store.reader",
        "pipeline.data.store.shard_reader",
        "pipeline.data.windows",
    ],
    "beartype.beartype",
)


@pytest.fixture(scope="session")
def mlflow_port(tmp_path_factory):
    """The port of a real tracking server, which all tests share: it takes a quarter of a minute to start."""
    from tests.pipeline.runs.mlflow_server import mlflow_server

    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as port:
        yield port
