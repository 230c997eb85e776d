"""What a disk refuses is one line, whichever library met it; everything else stays what it was."""

import errno
import os
import resource
from pathlib import Path

import pandas as pd
import pytest

from pipeline.errors import UserError, writing
from pipeline.paths import write_atomic


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("write", [Path.write_bytes, lambda file, data: pd.DataFrame({"a": [data]}).to_parquet(file)])
def test_a_full_disk_is_one_line(write):
    with pytest.raises(UserError, match=r"No space left on device.*the same command goes on"), writing():
        write(Path("/dev/full"), b"x" * 100_000)


def test_a_file_that_may_not_grow_is_one_line_and_leaves_nothing(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(UserError, match=r"File too large.*the same command goes on"), writing():
            write_atomic(tmp_path / "a", b"x" * 9999)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOTDIR])
def test_what_a_file_system_refuses_is_one_line(number):
    with pytest.raises(UserError, match=r"\[Errno \d+\] .*: 'a'; mend that, and the same"), writing():
        raise OSError(number, os.strerror(number), "a")


def test_a_link_to_nowhere_in_the_place_of_a_folder_is_named(tmp_path):
    state = tmp_path / ".hvg"
    state.symlink_to("nowhere")
    with (
        pytest.raises(UserError, match=rf"File exists: '{state}', a link to nowhere, which does not exist; mend that"),
        writing(),
    ):
        state.mkdir(exist_ok=True)
    (tmp_path / "nowhere").touch()
    with pytest.raises(UserError, match=rf"File exists: '{state}', a link to nowhere; mend that"), writing():
        state.mkdir(exist_ok=True)
    state.unlink()
    state.touch()
    with pytest.raises(UserError, match=rf"File exists: '{state}'; mend that"), writing():
        state.mkdir()


def test_the_words_of_a_program_count_and_a_bug_stays_one():
    with pytest.raises(UserError, match=r"a\.mp4: ffmpeg failed"), writing():
        raise RuntimeError("a.mp4: ffmpeg failed:\n Could not write header: No space left on device")
    with pytest.raises(UserError, match=r"^a\.csv: another"), writing():
        raise UserError("a.csv: another")
    for bug in (ZeroDivisionError("division by zero"), FileNotFoundError(2, "No such file or directory")):
        with pytest.raises(type(bug)), writing():
            raise bug
