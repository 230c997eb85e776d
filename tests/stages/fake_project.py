"""A finished reproduction, made in a moment: what evaluate and report read, with awkward names in it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from models.hierarchy import f_s, f_t
from pipeline.data.store.writer import StoreWriter
from pipeline.paths import Paths

RECIPE = Path(__file__).parents[2] / "recipes" / "shapes.yaml"
CLASSES = ("<script>alert(1)</script>", "a & b", "plain", "ünïcode")


def make_project(root: Path, *, videos: int = 6, classes: tuple[str, ...] = CLASSES, frames: int = 4) -> Paths:
    """Stores, histories and params.yaml under `root`; two levels, `frames` of 8 pixels and twice as many of 16."""
    paths = Paths(root)
    raw = YAML(typ="safe").load(RECIPE)
    raw["views"] = {"1": {"frames": frames, "size": 8}, "2": {"frames": 2 * frames, "size": 16}}
    raw["levels"]["1"]["generator"]["multipliers"] = [4, 2]
    raw["levels"]["1"]["discriminators"]["multipliers"] = [2, 4]
    raw["levels"]["2"]["generator"]["multipliers"] = [4, 4]
    raw["levels"]["2"]["discriminators"]["multipliers"] = [1, 2, 4]
    raw["levels"]["2"]["training"]["window"] = 2
    raw["samples"] = {"videos": videos, "figures": 4, "windows": videos}
    raw["evaluation"] |= {"videos": 4, "psd_frames": [1, 8], "psd_sets": 2, "i3d_k400": None}
    if not classes:
        raw["data"]["classes"] = 0
    root.mkdir(parents=True, exist_ok=True)
    with paths.params.open("w") as file:
        file.write("# a comment with <b>tags</b>\n")
        YAML().dump(raw, file)

    _pyramid(paths, videos, classes, 2 * frames + 2)
    tops = np.stack([moving(i, 2 * frames, 16, dim=0.8) for i in range(videos)])
    for name, made, sigma in (("videos", tops, 1.0), ("figures", tops[-4:], 0.5), ("windows", tops[:, 2:6], 1.0)):
        rows = _rows([name] * len(made), classes, made.shape[1]).assign(sigma=sigma)
        _store(paths.samples(2) / name, {2: made}, rows, "samples", classes)
        if name != "windows":
            rows = rows.assign(n_frames=frames)
            _store(paths.samples(1) / name, {1: below(made)}, rows, "samples", classes)
    rows = _rows(["train"] * (videos - 2) + ["measure"] * 2, classes, frames).assign(sigma=1.0)
    _store(paths.conditions(1), {1: below(tops)}, rows, "samples", classes)
    for level in (1, 2):
        paths.artifact(level).mkdir(parents=True)
        steps = np.arange(10, 60, 10)
        columns = {"loss_discriminator": 2 - steps / 60, "accuracy_real_spatial": steps / 60}
        columns |= {"accuracy_fake_spatial": 1 - steps / 80, "loss_generator": np.sin(steps)}
        pd.DataFrame({"step": steps, **columns}).to_csv(paths.artifact(level) / "history.csv", index=False)
        (paths.artifact(level) / "config.json").write_text(json.dumps({"config": {"classes": len(classes)}}))
    return paths


def moving(seed: int, frames: int, size: int, dim: float = 1.0) -> np.ndarray:
    """A bright square that moves over a ramp: [T, H, W, 3] uint8."""
    ramp = np.linspace(20, 120, size)
    video = np.broadcast_to(ramp[None, None, :, None], (frames, size, size, 3)).copy()
    color = np.random.default_rng(seed).uniform(90, 255, 3)
    side = size // 3
    for t in range(frames):
        x, y = (seed + t * 2) % (size - side), (3 * seed + t) % (size - side)
        video[t, y : y + side, x : x + side] = color
    return (video * dim).astype(np.uint8)


def below(tops: np.ndarray) -> np.ndarray:
    """The view below of videos [N T H W 3], half as long and wide."""
    import torch

    x = torch.from_numpy(tops).movedim(-1, -3)
    return f_s(f_t(x, 2), tops.shape[2] // 2).movedim(-3, -1).numpy()


def _rows(splits: list[str], classes: tuple[str, ...], frames: int) -> pd.DataFrame:
    labels = [i % len(classes) if classes else -1 for i in range(len(splits))]
    names = [classes[label] if label >= 0 else "" for label in labels]
    table = {"row": range(len(splits)), "split": splits, "label": labels, "class": names}
    return pd.DataFrame({**table, "n_frames": frames})


def _pyramid(paths: Paths, videos: int, classes: tuple[str, ...], frames: int) -> None:
    tops = np.stack([moving(100 + i, frames, 16) for i in range(2 * videos)])
    rows = _rows(["train"] * videos + ["val"] * videos, classes, frames)
    rows["path"] = [f"{name}/{i}.mp4" for i, name in enumerate(rows["class"])]
    rows = rows.assign(fps=24.0, width=64, height=64, seconds=0.8, codec="h264", notes="")
    _store(paths.pyramid, {1: below(tops), 2: tops}, rows, "pyramid", classes)
    failed = {"path": ["x/<img src=x>.mp4"], "split": ["val"], "class": ["plain"], "reason": ["no frames"]}
    pd.DataFrame(failed).to_csv(paths.pyramid / "failed.csv", index=False)
    pd.DataFrame(columns=list(failed)).to_csv(paths.pyramid / "short.csv", index=False)
    pd.DataFrame(columns=["split", "class", "name"]).to_csv(paths.pyramid / "missing.csv", index=False)
    pd.DataFrame(columns=["path", "reason"]).to_csv(paths.pyramid / "unlisted.csv", index=False)


def _store(path: Path, views: dict[int, np.ndarray], rows: pd.DataFrame, kind: str, classes: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = {level: (videos.shape[1], videos.shape[2]) for level, videos in views.items()}
    count = len(rows)
    writer = StoreWriter(path, views=sizes, videos=count, shard_videos=count)
    writer.write(0, views)
    writer.finish(rows, kind=kind, classes=classes)
