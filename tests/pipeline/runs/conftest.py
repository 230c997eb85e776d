"""A store of runs, made once: MLflow takes seconds to make one."""

import pytest

from pipeline.paths import Paths
from pipeline.runs.store import Store


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """An empty store's file, to be copied."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = Store(Paths(tmp_path_factory.mktemp("store")))
        _ = store.client
        return store.database
