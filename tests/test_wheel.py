"""What an installation holds that is no editable one."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_wheel_holds_every_module_and_template(tmp_path):
    """Built from a copy of what git knows, without what earlier builds left behind."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "models", "pipeline", "stages"]
    files = [f for f in subprocess.check_output(command, cwd=ROOT, text=True).split() if (ROOT / f).is_file()]
    assert any(f.endswith(".html") for f in files)
    source = tmp_path / "source"
    for name in [*files, "pyproject.toml", "README.md", "LICENSE"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    options = ["--no-build-isolation", "--python", sys.executable, "--out-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "uv", "build", "--quiet", "--wheel", *options, str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == set(files)
