"""Write into dvc.yaml which project files each stage imports: `python .ci/deps.py`.

A stage is out of date when code that it runs has changed; tests/test_dvc.py compares what stands there with this.
"""

import ast
import re
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "pipeline", "stages")
# What words the page beside the pyramid: to say something better must not decode terabytes again.
LEFT_OUT = {"stages/decode.py": "pipeline/data/page/"}


def closure(module: Path, root: Path = ROOT) -> set[str]:
    """Paths of the project files that a module imports, itself included: also lazily, also through others.

    With a file come its packages' __init__ files and what is no Python beside it, such as templates. Empty files are
    left out: DVC warns of them.
    """
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        file = waiting.pop()
        if file in found or not file.is_file():
            continue
        found |= {file, *_beside(file.parent)}
        waiting += [folder / "__init__.py" for folder in file.parents if folder.is_relative_to(root) and folder != root]
        for name in _imported(ast.parse(file.read_text())):
            if name.split(".")[0] in PACKAGES:
                path = root / name.replace(".", "/")
                waiting += [path.with_name(f"{path.name}.py"), path / "__init__.py"]
    names = {file.relative_to(root).as_posix() for file in found if file.stat().st_size}
    left_out = LEFT_OUT.get(module.relative_to(root).as_posix())
    return {name for name in names if left_out is None or not name.startswith(left_out)}


def _beside(folder: Path):
    """Files of a package that are no Python, also in folders that hold none."""
    for entry in folder.iterdir():
        if entry.is_file() and entry.suffix not in {".py", ".pyc"}:
            yield entry
        elif entry.is_dir() and entry.name != "__pycache__" and not any(entry.glob("*.py")):
            yield from (file for file in entry.rglob("*") if file.is_file())


def _imported(tree: ast.AST):
    """Every name that could be a module: `from a import b` may mean a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def stage_module(command: str) -> Path:
    """The file that a stage's command runs."""
    name = re.search(r"hvg run ([a-z-]+)", command)
    if name is None:
        raise ValueError(f"no `hvg run STAGE` in {command!r}")
    return ROOT / "stages" / f"{name[1].replace('-', '_')}.py"


def is_code(dep: str) -> bool:
    """Whether a dep is a file of the project's code."""
    return dep.split("/")[0] in PACKAGES


def expected(stage: dict) -> list[str]:
    """The deps that a stage of dvc.yaml should have: its data as they stand there, then its code, sorted."""
    body = stage.get("do", stage)
    return [d for d in body["deps"] if not is_code(d)] + sorted(closure(stage_module(body["cmd"])))


def main() -> None:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    file = ROOT / "dvc.yaml"
    tree = yaml.load(file)
    missing = []
    for stage in tree["stages"].values():
        body = stage.get("do", stage)
        if not stage_module(body["cmd"]).is_file():
            missing.append(stage_module(body["cmd"]).relative_to(ROOT).as_posix())
            continue
        deps = expected(stage)
        if list(body["deps"]) != deps:
            body["deps"][:] = deps
    with file.open("w") as out:
        yaml.dump(tree, out)
    if missing:
        sys.exit(f"not there: {', '.join(missing)}")


if __name__ == "__main__":
    main()
