"""Progress without a terminal, and how a stage ends."""

import json
import subprocess
import sys
from pathlib import Path
from weakref import WeakSet

import pytest

from pipeline import progress as module
from pipeline.progress import progress

ROOT = Path(__file__).parents[2]


def run(program: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_plain_lines_have_an_end_and_no_carriage_return(capsys, monkeypatch):
    monkeypatch.delenv(module.COLUMNS, raising=False)
    bar = progress(total=10, desc="decode", unit="videos")
    for _ in range(3):
        bar.update(2)
        bar.set_postfix(failed=1)
    bar.close()
    err = capsys.readouterr().err
    assert err.startswith("decode: 6/10 videos") and "failed=1" in err
    assert err.count("\n") == 1 and "\r" not in err


def test_lines_come_now_and_then(capsys, monkeypatch):
    monkeypatch.delenv(module.COLUMNS, raising=False)
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    assert list(progress(range(3), desc="count", unit="things")) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"count: {n}/3 things" for n in (1, 2, 3)]


def test_the_launchers_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setenv(module.COLUMNS, "60")
    monkeypatch.setattr(module.tqdm, "_instances", WeakSet())  # a bar that another test left open would stand above
    with progress(total=2, desc="train", unit="iterations") as bar:
        bar.update(2)
    assert "\r" in (err := capsys.readouterr().err) and "100%" in err
    assert all(len(part.rstrip()) <= 60 for part in err.split("\r"))


def test_other_ranks_are_silent(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert list(progress(range(3), desc="count", unit="things")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("body", "env", "code", "stderr"),
    [
        ("raise UserError('a.b: no')", {}, 2, "error: a.b: no\n"),
        ("raise UserError('a.b:\\n no')", {}, 2, "error: a.b: no\n"),
        ("raise UserError('a.b: no')", {"HVG_JOB": "x"}, 2, ""),  # the launcher says it
        ("pass", {}, 0, ""),
    ],
)
def test_how_a_stage_ends(body, env, code, stderr):
    imports = "from pipeline.errors import UserError\nfrom pipeline.system.stage import run_stage"
    done = run(f"{imports}\ndef main():\n    {body}\nrun_stage(main)", env)
    assert (done.returncode, done.stderr) == (code, stderr)


def test_what_a_stage_dies_of_stands_in_torchelastics_error_file(tmp_path):
    imports = "from pipeline.errors import UserError\nfrom pipeline.system.stage import run_stage"
    for number, (error, code) in enumerate((("UserError('a.b: no')", 2), ("KeyError(3)", 1))):
        file = tmp_path / str(number)
        env = {"HVG_JOB": "x", "TORCHELASTIC_ERROR_FILE": str(file)}
        assert run(f"{imports}\ndef main():\n    raise {error}\nrun_stage(main)", env).returncode == code
        told = json.loads(file.read_text())["message"]
        assert told["message"] == ["UserError: a.b: no", "KeyError: 3"][number]
        assert int(told["extraInfo"]["timestamp"]) > 0


def test_ranks_are_named_where_there_are_several():
    imports = "import logging\nfrom pipeline.system.stage import run_stage"
    program = f"{imports}\nrun_stage(lambda: logging.getLogger('stages.x').info('hi'))"
    done = run(program, {"RANK": "1", "WORLD_SIZE": "2"})
    assert done.stderr.startswith("[1] ") and done.stderr.endswith(" hi\n")
