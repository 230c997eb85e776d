"""Which code decides a result: a hash of the syntax trees of what a module imports, and nothing that only shows it.

DVC is the coarse sieve, whose stages depend on folders; this is the fine one. Comments, docstrings and layout do not
count, nor does what draws pages, tracks runs or launches jobs: a stage that DVC starts for such an edit finds its
finished work and publishes the same bytes.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "pipeline", "stages")
# No byte of a result comes from these.
SHOWS = (
    "pipeline.checkout",
    "pipeline.code_hash",
    "pipeline.errors",
    "pipeline.launch",
    "pipeline.media",
    "pipeline.paths",
    "pipeline.progress",
    "pipeline.report",
    "pipeline.runs",
    "pipeline.system",
)


@functools.cache
def code_hash(module: str, *, without: tuple[str, ...] = ()) -> str:
    """A hash of the code of `module` ("stages.train") and of all that it imports of the project, also through others.

    without: modules or packages whose code does not decide, beside those that only show.
    """
    digest = hashlib.sha256()
    for name, code in sorted(imported(module, without=(*SHOWS, *without)).items()):
        digest.update(f"{name}\n{code}\n".encode())
    return digest.hexdigest()


def imported(module: str, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """The code of the project's modules that a module imports, itself included: also lazily, also through others."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = file_of(name)
        if file is None or name in found or any(f"{name}.".startswith(f"{left}.") for left in without):
            continue
        found[name], names = _read(file)
        waiting += names
    return found


@functools.cache  # hashes of one process have most files in common
def _read(file: Path) -> tuple[str, tuple[str, ...]]:
    """The syntax tree of a file, without docstrings, as text; and every module that it may import."""
    tree = ast.parse(file.read_bytes())
    names = tuple(_names(tree))
    return _dump(tree), names


def file_of(name: str) -> Path | None:
    """The file of a module by its name; None where there is no such module in the project."""
    base = ROOT.joinpath(*name.split("."))
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return file if file.is_file() else None


def _names(tree: ast.AST) -> Iterator[str]:
    """Every module that may be imported, with the packages that it lies in."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] in PACKAGES:
                yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _dump(tree: ast.AST) -> str:
    """A syntax tree as text, without docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            described = ast.get_docstring(node, clean=False) is not None
            node.body = node.body[1:] if described else node.body
    return ast.dump(tree)
