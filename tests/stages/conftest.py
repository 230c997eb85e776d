import pytest
import torch

from tests.stages.by_stages import reproduce


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory):
    """The folder of `by_stages.reproduce`, by one thread: the order of sums, and so the bytes, depend on it."""
    folder, threads = tmp_path_factory.mktemp("reproduced"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("MLFLOW_TRACKING_URI", "WORLD_SIZE"):
                patch.delenv(name, raising=False)
            reproduce(folder)
    finally:
        torch.set_num_threads(threads)
    return folder
