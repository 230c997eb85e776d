"""A checkout's name and commit, and what git knows of it."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.checkout import name_of, revision, track


@pytest.fixture
def git(tmp_path):
    def run(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    return run


def test_stages_that_begin_together_agree_on_the_name(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(name_of, [tmp_path] * 8))
    assert len(names) == 1 and len(names.pop()) == 32
    assert {file.name for file in (tmp_path / ".hvg" / "tracking").iterdir()} == {"id"}


def test_the_commit_and_whether_files_differ(tmp_path, git):
    assert revision(tmp_path) == ("", False)
    git("init", "-q")
    assert revision(tmp_path) == ("", False)
    (tmp_path / "a").write_text("one")
    git("add", "a")
    git("commit", "-q", "-m", "one")
    git("tag", "-m", "x", "v1-2")
    (tmp_path / "b").touch()  # which git does not track
    assert revision(tmp_path) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "a").write_text("two")
    assert revision(tmp_path) == (git("rev-parse", "HEAD"), True)


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision(tmp_path) == ("", False)


def test_git_knows_a_file_that_it_ignores(tmp_path, git, monkeypatch):
    listing = tmp_path / "data" / "listing.csv"
    listing.parent.mkdir()
    listing.touch()
    (tmp_path / ".gitignore").write_text("/data/\n")
    track(tmp_path, listing)  # no repository
    git("init", "-q")
    monkeypatch.chdir(tmp_path)
    track(Path(), Path("data/listing.csv"))
    assert git("ls-files") == "data/listing.csv"


def test_what_git_refuses_is_a_warning(tmp_path, git, caplog):
    git("init", "-q")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").symlink_to("elsewhere")
    listing = tmp_path / "data" / "listing.csv"
    listing.touch()
    track(tmp_path, listing)
    assert "data/listing.csv is not in git" in caplog.text and "beyond a symbolic link" in caplog.text
    caplog.clear()
    (tmp_path / ".git" / "index").write_bytes(b"damaged")
    track(tmp_path, tmp_path / "elsewhere" / "listing.csv")
    assert "elsewhere/listing.csv is not in git" in caplog.text and "index" in caplog.text


def test_nothing_is_staged_in_a_repository_around_the_checkout(tmp_path, git):
    git("init", "-q")
    listing = tmp_path / "hvg" / "listing.csv"
    listing.parent.mkdir()
    listing.touch()
    track(tmp_path / "hvg", listing)
    assert git("ls-files") == ""
