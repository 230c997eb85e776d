"""A small DVC project whose stages are shell commands."""

import os
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent


def project(folder: Path, stages: dict[str, Any]) -> Path:
    """A folder with these stages."""
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
    )
    with (folder / "dvc.yaml").open("w") as file:
        YAML().dump({"stages": stages}, file)
    return folder


def environment(**more: str) -> dict[str, str]:
    """What a process in such a folder needs, and no server of another test's."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    return clean | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)} | more
