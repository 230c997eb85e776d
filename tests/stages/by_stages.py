"""A tiny reproduction, stage by stage: what lay there before each, and what each made."""

import importlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.data.layouts.listing import prepare_listing
from pipeline.media.video import write_mp4
from pipeline.params import load_params
from pipeline.paths import Paths
from tests.stages.fake_project import make_project, moving

SEEN_BY_TIME = ("index.html", "data.html")  # pages that say when and by which run they were made


@dataclass(frozen=True)
class Step:
    """A stage, of a level where it has one, and where it writes."""

    stage: str
    out: str
    level: int | None = None

    def __str__(self) -> str:
        return f"{self.stage}{self.level or ''}"

    @property
    def args(self) -> list[str]:
        if self.level is not None:
            return ["--level", str(self.level)]
        return ["--workers", "1"] if self.stage == "decode" else []

    def run(self) -> None:
        """In this process, in the folder that it is in."""
        importlib.import_module(f"stages.{self.stage}").main(self.args)

    def made(self, root: Path) -> dict[str, bytes]:
        """Its files by name."""
        files = (file for file in (root / self.out).rglob("*") if file.is_file() and file.name not in SEEN_BY_TIME)
        return {file.relative_to(root).as_posix(): file.read_bytes() for file in files}

    def differing(self, root: Path, whole: Path) -> list[str]:
        """Files of `root` that are others in `whole`, or in one of the two alone; two stages share reports."""
        made, expected = self.made(root), self.made(whole)
        names = made if self.out == "reports" else {**made, **expected}
        assert made
        return [name for name in names if made.get(name) != expected.get(name)]


STEPS = (
    Step("decode", "data/pyramid"),
    Step("train", "artifacts/level-1", 1),
    Step("generate", "data/conditions/level-1", 1),
    Step("train", "artifacts/level-2", 2),
    Step("sample", "data/samples/level-1", 1),
    Step("sample", "data/samples/level-2", 2),
    Step("evaluate", "reports"),
    Step("report", "reports"),
)


def reproduce(folder: Path) -> None:
    """Run every step in `folder`/end; `folder`/<step> is how it looked before that step."""
    root = folder / "end"
    paths = make_project(root, classes=("a", "b"))
    shutil.rmtree(root / "data")
    shutil.rmtree(root / "artifacts")
    raw = YAML(typ="safe").load(paths.params)
    for level in raw["levels"].values():
        level["generator"]["channels"] = level["discriminators"]["channels"] = 2
        level["training"] |= {"batch": 4, "iterations": 6, "checkpoint_every": 3, "samples_every": 3, "log_every": 2}
        level["generation"] |= {"batch": 4, "recalibration": 2}
    raw["conditions"]["1"] |= {"train": 8, "measure": 4}
    raw["samples"] |= {"videos": 8, "figures": 4, "windows": 4}
    raw["data"] |= {"layout": "folder", "root": "data/mine", "listing": "data/mine.csv"}
    raw["shapes"] = {}
    raw["evaluation"] |= {"videos": 2}
    with paths.params.open("w") as file:
        YAML().dump(raw, file)
    (root / "dvc.yaml").touch()
    for number in range(8):
        name = f"{'train' if number < 5 else 'val'}/{'ab'[number % 2]}/{number}.mp4"
        write_mp4(root / "data" / "mine" / name, moving(number, 24, 16), 24.0)
    prepare_listing(load_params(paths.params), paths)
    here = Path.cwd()
    os.chdir(root)
    try:
        for step in STEPS:
            shutil.copytree(root, folder / str(step), symlinks=True)
            step.run()
    finally:
        os.chdir(here)


def before(folder: Path, step: Step, root: Path) -> Paths:
    """A copy of how `folder` looked before a step."""
    shutil.copytree(folder / str(step), root, symlinks=True)
    return Paths(root)
