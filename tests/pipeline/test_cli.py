"""The command line as a user meets it: quick help, and errors of one line with exit code 2."""

import getpass
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import _have_a_name
from pipeline.paths import Paths
from pipeline.project.doctor import examine

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "prefect", "mlflow", "dvc", "pandas", "zarr", "numpy", "pydantic", "av", "matplotlib"}


def hvg(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "recipes").mkdir()
    shutil.copy(ROOT / "recipes" / "shapes.yaml", tmp_path / "recipes")
    shutil.copy(ROOT / "recipes" / "shapes.yaml", tmp_path / "params.yaml")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    return tmp_path


def test_help_is_at_once(monkeypatch):
    program = "import json, sys, pipeline.cli; print(json.dumps([m for m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in json.loads(done.stdout)} & HEAVY
    shown = hvg("--help")
    assert shown.returncode == 0 and "hvg recipe folder --set data.root=/videos" in shown.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "trian"], "'trian' is not one of"),
        (["run", "train"], "--level: train needs one"),
        (["run", "decode", "--level", "1"], "--level: decode takes none"),
        (["run", "train", "--level", "7"], "--level 7: params.yaml has the levels 1, 2"),
        (["run", "make-shapes"], "--key: make-shapes needs one"),
        (["run", "make-shapes", "--key", "x"], "--key x: params.yaml has the shapes shapes"),
        (["run", "train", "--leve", "1"], "No such option"),
        (["recipe", "nothing"], "no recipe 'nothing'; there are shapes"),
        (["recipe", "shapes", "--set", "a.b=1"], "a.b: no such parameter"),
        (["describe", "--params", "none.yaml"], "none.yaml: no such parameter file"),
        (["summary"], "no finished store here; `dvc repro` makes it"),
        (["run", "report", "--workers", "2"], "--workers: report runs in one process"),
    ],
)
def test_mistakes_are_one_line(project, args, message):
    shutil.copytree(ROOT / "pipeline", project / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "models", project / "models", ignore=shutil.ignore_patterns("__pycache__"))
    done = hvg(*args, cwd=project)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1


def test_what_is_missing_is_said_before_anything_runs(project):
    (project / "recipes" / "kinetics-mini.yaml").write_bytes((ROOT / "recipes" / "kinetics-mini.yaml").read_bytes())
    hvg("recipe", "kinetics-mini", cwd=project)
    done = hvg("repro", cwd=project)
    assert done.returncode == 2
    assert "data.listing: data/listing.csv does not exist; `hvg index` writes it" in done.stderr
    weights = project / "weights.pt"
    weights.write_bytes(b"some")
    hvg("recipe", "shapes", "--set", f"evaluation.i3d_k400={weights.name}", cwd=project)
    weights.write_bytes(b"others")
    for says in ("weights.pt has SHA-256 ", "weights.pt does not exist"):
        done = hvg("repro", cwd=project)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"evaluation.i3d_k400: {says}" in done.stderr and "`hvg recipe --set evaluation.i3d_k400=" in done.stderr
        weights.unlink(missing_ok=True)


def test_what_the_file_system_refuses_is_one_line(project):
    (project / ".hvg").touch()
    before = (project / "params.yaml").read_bytes()
    done = hvg("recipe", "--set", "seed=3", cwd=project)
    says = f"error: in {project}: [Errno 17] File exists: '.hvg'; mend that, and the same command goes on\n"
    assert (done.returncode, done.stderr) == (2, says)
    assert (project / "params.yaml").read_bytes() == before


def test_elsewhere_it_says_where_to_go(tmp_path):
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pipeline.cli import main; main()"
    command = [sys.executable, "-c", program, "runs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: dvc.yaml: not in this folder; run hvg in the project's\n")


def test_a_recipe_lists_the_videos_it_finds(project):
    videos = project / "videos" / "juggling"
    videos.mkdir(parents=True)
    (videos / "a.mp4").write_bytes(b"x")
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pipeline.cli import main; main()"

    def run(*args: str) -> str:
        command = [sys.executable, "-c", program, *args]
        return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout

    settings = ["--set", "data.layout=folder", "--set", "shapes={}", "--set", "data.listing=data/listing.csv"]
    assert "does not exist yet" in run("recipe", "shapes", *settings, "--set", "data.root=nowhere")
    assert "written, 1 videos" in run("recipe", "--set", "data.root=videos")
    assert "up to date, 1 videos" in run("index")
    (videos / "b.mp4").write_bytes(b"x")
    assert "written, 2 videos" in run("index")


def test_a_recipe_that_is_refused_changes_nothing(project):
    (project / "data").mkdir()
    (project / "videos").mkdir()
    (project / "videos" / "a.mp4").write_bytes(b"x")
    (project / "empty").mkdir()
    (project / "data" / "table.csv").write_text("path,label\n")
    own = ["data.layout=folder", "shapes={}", "data.root=videos", "data.listing=data/listing.csv"]
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pipeline.cli import main; main()"

    def run(*settings: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, "recipe", *(word for one in settings for word in ("--set", one))]
        return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)

    assert run(*own).returncode == 0
    before = (project / "params.yaml").read_bytes()
    for setting, says in (("data.listing=data/table.csv", "is no listing"), ("data.root=empty", "no video")):
        done = run(setting)
        assert done.returncode == 2 and says in done.stderr and not done.stdout
        assert (project / "params.yaml").read_bytes() == before


def test_a_child_s_end_is_heard_whatever_the_parent_ignores(project):
    """With SIGCHLD ignored, as it may be inherited, every child's exit code is lost: DVC's failures were 0."""
    program = """if True:
        import signal, subprocess, sys
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        sys.path.insert(0, sys.argv[1])
        import pipeline.cli as cli
        child = [sys.executable, "-c", "raise SystemExit(7)"]
        cli.cli.callback = lambda *_, **__: sys.exit(subprocess.run(child).returncode)
        sys.argv[1:] = ["runs"]
        cli.main()
    """
    done = subprocess.run([sys.executable, "-c", program, str(ROOT)], cwd=project, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr


def test_names_are_utf8_whatever_the_locale(project):
    videos = project / "vidéos" / "日本"
    videos.mkdir(parents=True)
    (videos / "ü.mp4").write_bytes(b"x")
    settings = ["data.layout=folder", "shapes={}", "data.listing=data/listing.csv", "data.root=vidéos"]
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pipeline.cli import main; main()"
    command = [sys.executable, "-c", program, "recipe", "shapes", *(f"--set={setting}" for setting in settings)]
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, encoding="utf-8", check=True)
    assert "data.root=vidéos" in done.stdout and "written, 1 videos" in done.stdout
    assert "日本/ü.mp4" in (project / "data" / "listing.csv").read_text(encoding="utf-8")


def test_an_account_without_a_name_has_one_and_a_home(project, monkeypatch):
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.chdir(project)
    _have_a_name()
    assert getpass.getuser() == f"uid-{os.getuid()}"
    assert os.environ["HOME"] == str(project / ".hvg")


def test_the_doctor_says_what_is_missing(project):
    found = {check.name: check for check in examine(Paths(project))}
    assert all(found[name].ok for name in ("python", "torch", "ffmpeg", "params"))
    assert (found["git"].found, found["git"].necessary) == ("no repository: no experiments", False)
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("root: data/shapes", "root: nowhere"))
    (missing,) = [check for check in examine(Paths(project)) if not check.ok and check.necessary]
    assert missing.name == "data" and "nowhere" in missing.found
