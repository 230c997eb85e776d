"""The stage evaluate on a small finished project: what it writes, what it reads a second time, how many workers."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from torch.multiprocessing.spawn import spawn

from pipeline.data.store.reader import ViewReader
from pipeline.metrics import evaluation
from pipeline.metrics.clip_sets import open_set
from pipeline.metrics.compare_sets import compare
from pipeline.metrics.evaluation import choose_clips
from pipeline.metrics.measured import PAIRS, RANDOM_PAIRS, FeatureNetworks
from pipeline.metrics.weights import weights_of
from pipeline.params import load_params
from pipeline.paths import Paths
from pipeline.runs.store import Store
from pipeline.system.values import Weights
from pipeline.workers import join_workers
from stages import evaluate
from tests.pipeline.metrics.tiny import tiny_network
from tests.pipeline.training.tiny import ALONE
from tests.stages.fake_project import make_project

ROOT = Path(__file__).parents[2]
COUNTED = ["random_i3d_frechet_logits", "random_i3d_frechet_pooled"]
NAMES = {*COUNTED, *RANDOM_PAIRS}
KINDS = ("metrics", "windows", "cut_windows")


def _tiny(seed: int, device: torch.device):
    return tiny_network(seed)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Iterator[Paths]:
    """After the stage: 12 videos, 8 frames in view 1 and 16 in view 2; the I3D takes no time."""
    root = tmp_path_factory.mktemp("project")
    make_project(root, videos=12, frames=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("WORLD_SIZE", raising=False)
        patch.setattr(evaluation, "random_i3d", _tiny)
        evaluate.main([])
        yield Paths(root)


def metrics(paths: Paths) -> dict:
    files = (paths.reports / f"{name}.json" for name in ("metrics", "protocol"))
    return {part: of for file in files for part, of in json.loads(file.read_text()).items()}


def table(paths: Paths, name: str) -> pd.DataFrame:
    return pd.read_csv(paths.reports / f"{name}.csv")


def test_whole_videos_and_windows_are_measured_each_by_its_protocol(project):
    found = metrics(project)
    kinds = ("windows", "cut_windows")
    assert set(found) == {"metrics", "protocol", *kinds, *(f"{kind}_protocol" for kind in kinds)}
    whole, windows, cut = (found[name] for name in ("protocol", *(f"{kind}_protocol" for kind in kinds)))
    assert (whole["frames"], windows["frames"], cut["frames"]) == (16, 4, 4)
    assert windows["start"].endswith("generated of such a window alone, as in training")
    assert cut["start"].endswith("cut out of the whole samples")
    same = {"real_split", "size", "frame_step", "sigma", "resize", "logits_network", "pyramid"}
    assert {whole[name] for name in same} == {windows[name] for name in same} == {cut[name] for name in same}
    assert whole["samples"] == cut["samples"] != windows["samples"]
    for kind in kinds:
        assert set(found[kind]) == NAMES < set(found["metrics"])
        assert all(found[kind][name] != found["metrics"][name] for name in COUNTED)
    (logged,) = Store(project).runs("evaluate")
    assert [logged.params[f"{part}.frames"] for part in ("protocol", "windows_protocol")] == ["16", "4"]
    assert {"windows_random_i3d_frechet_logits", "cut_windows_random_i3d_frechet_logits"} < logged.metrics.keys()


def test_of_one_level_whole_videos_alone_are_measured(tmp_path, monkeypatch):
    paths = make_project(tmp_path, frames=8)
    raw = YAML(typ="safe").load(paths.params)
    for section in ("levels", "views"):
        del raw[section]["2"]
    raw |= {"conditions": {}}
    YAML().dump(raw, paths.params)
    monkeypatch.setattr(evaluation, "random_i3d", _tiny)
    found = evaluation.evaluate(load_params(paths.params), paths, ALONE).numbers
    assert set(found) == {"metrics", "protocol"} and found["protocol"]["frames"] == 8
    assert set(found["metrics"]) > NAMES and not any(name.startswith("grounding") for name in found["metrics"])


def test_windows_span_what_a_window_of_training_does_anywhere(project):
    params = load_params(project.params)
    reader = ViewReader(project.samples(2) / "videos", 2)
    clips = choose_clips(params, reader, "generated", 12, 6)
    assert {start for _, start in clips} <= {0, 2, 4} and len({start for _, start in clips}) > 1
    assert {start for _, start in choose_clips(params, reader, "generated", 12)} == {0}
    windows = ViewReader(project.samples(2) / "windows", 2)
    assert sorted(choose_clips(params, windows, "generated", 12, 2)) == [(video, 0) for video in range(12)]


def test_clips_without_a_class_count_for_no_probe(tmp_path, monkeypatch):
    paths = make_project(tmp_path, videos=8)
    monkeypatch.setattr(evaluation, "random_i3d", _tiny)
    labels, seen = {"train": [0, 1, -1], "val": [0, 1, -1], "videos": [-1], "windows": [-1]}, []

    class Some(ViewReader):
        def __init__(self, *place, **given):
            super().__init__(*place, **given)
            wanted = labels[self.videos["split"].iloc[0]]
            self.labels = np.resize(np.array(wanted, np.int64), len(self))

    class Watched(evaluation.Probe):
        def __init__(self, features, labels):
            seen.extend(labels.tolist())
            super().__init__(features, labels)

        def accuracy(self, features, labels):
            seen.extend(labels.tolist())
            return super().accuracy(features, labels)

    monkeypatch.setattr(evaluation, "ViewReader", Some)
    monkeypatch.setattr(evaluation, "Probe", Watched)
    found = evaluation.evaluate(load_params(paths.params), paths, ALONE)
    assert "probe_accuracy_real" in found.numbers["metrics"]
    assert "probe_accuracy_generated" not in found.numbers["metrics"]
    assert set(seen) == {0, 1}


def test_a_random_network_looks_at_few_videos_and_motion_and_spectra_are_of_all(project, monkeypatch):
    params = load_params(project.params)
    whole = evaluation.evaluate(params, project, ALONE)
    assert whole.numbers["protocol"]["frame_videos"] == (4, 4)
    monkeypatch.setattr(evaluation, "RANDOM_VIDEOS", 2)
    found = evaluation.evaluate(params, project, ALONE)
    protocol = found.numbers["protocol"]
    assert (protocol["real_videos"], protocol["generated_videos"], protocol["frame_videos"]) == (2, 2, (4, 4))
    for name in ("motion", "psd"):
        pd.testing.assert_frame_equal(found.tables[name], whole.tables[name])
    assert found.numbers["metrics"]["motion_real"] == whole.numbers["metrics"]["motion_real"]
    assert found.tables["counts"]["n"].tolist() == [2, 2] and found.numbers["windows_protocol"]["real_videos"] == 2
    monkeypatch.setattr(evaluation, "measure", None)  # all of it is kept
    assert evaluation.evaluate(params, project, ALONE).numbers == found.numbers


def test_tables_lie_beside_the_numbers(project):
    found = metrics(project)["metrics"]
    classes = table(project, "per_class")
    assert list(classes.columns) == ["class", "real", "generated", *COUNTED, *RANDOM_PAIRS]
    counts = table(project, "counts")
    assert set(counts["metric"]) == set(COUNTED)
    last = counts.groupby("metric").last()
    assert last["n"].tolist() == [4, 4]
    assert dict(zip(last.index, last["mean"], strict=True)) == pytest.approx(
        {name: found[name] for name in COUNTED}, rel=1e-6
    )
    motion = table(project, "motion")
    assert motion["step"].tolist() == list(range(1, 16))
    assert float(motion["real_mean"].to_numpy().mean()) == pytest.approx(found["motion_real"])
    clip = ViewReader(project.samples(2) / "videos", 2).read(0, 0, 16).astype(int)
    assert 0.3 < found["motion_generated"] / np.abs(np.diff(clip, axis=0)).mean() < 3
    assert set(table(project, "psd")["frame"]) == {1, 8}


@pytest.fixture(scope="module")
def dvc(project):
    """The project under git and DVC as dvc.yaml has it, committed; runs a dvc command and reads its JSON."""
    whole = YAML(typ="safe").load(ROOT / "dvc.yaml")
    stage = {name: whole["stages"]["evaluate"][name] for name in ("outs", "metrics")}
    YAML().dump({"stages": {"evaluate": {"cmd": "none", **stage}}, "plots": whole["plots"]}, project.root / "dvc.yaml")
    shutil.copytree(ROOT / ".dvc", project.root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "measured"]):
        subprocess.run(["git", *command], cwd=project.root, check=True)  # noqa: S607

    def run(*command: str):
        line = [sys.executable, "-m", "dvc", *command, "--json"]
        return json.loads(subprocess.run(line, cwd=project.root, capture_output=True, check=True).stdout)

    return run


def test_dvc_tells_metrics_that_differ_and_holds_nothing_but_numbers(project, dvc):
    file = project.reports / "metrics.json"
    committed = file.read_text()
    changed = json.loads(committed)
    assert all(isinstance(value, float) for part in changed.values() for value in part.values())
    before = changed["metrics"]["motion_generated"]
    changed["metrics"]["motion_generated"] = before + 1
    try:
        file.write_text(json.dumps(changed))
        found = dvc("metrics", "diff")["reports/metrics.json"]
    finally:
        file.write_text(committed)
    assert set(found) == {"metrics.motion_generated"}
    assert found["metrics.motion_generated"] == {"old": before, "new": before + 1, "diff": pytest.approx(1)}


def test_dvc_plots_the_tables(project, dvc):
    shown, plots = dvc("plots", "show"), YAML(typ="safe").load(ROOT / "dvc.yaml")["plots"]
    assert not shown.get("errors") and len(shown["data"]) == len(plots) == 3
    rows = {name: table(project, name) for name in ("counts", "psd")}
    for name, rendered in rows.items():
        (plot,) = shown["data"][f"reports/{name}.csv"]
        assert len(plot["content"]["data"]["values"]) == len(rendered)
        text = (ROOT / ".dvc" / "plots" / f"{name}.json").read_text()
        fields = set(re.findall(r"datum\.(\w+)|\"field\": \"(\w+)\"", text))
        named = {a or b for a, b in fields} - {"rev", "side", "power", "deviation", "low", "high"}
        assert named <= set(rendered.columns)


def test_data_without_classes_has_neither_probe_nor_class_table(tmp_path, monkeypatch):
    paths = make_project(tmp_path, classes=())
    monkeypatch.setattr(evaluation, "random_i3d", _tiny)
    found = evaluation.evaluate(load_params(paths.params), paths, ALONE)
    assert {*KINDS, "protocol"} < set(found.numbers)
    assert not [name for name in found.numbers["metrics"] if "probe" in name]
    assert len(found.tables["per_class"]) == 0 and len(found.tables["counts"]) > 0


def test_a_second_evaluation_reads_no_clip_but_for_grounding_and_finds_the_same(project, monkeypatch):
    params = load_params(project.params)

    def measured(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(evaluation, "measure", measured)
    again = evaluation.evaluate(params, project, ALONE)
    first = metrics(project)
    assert [again.numbers[part] for part in KINDS] == [first[part] for part in KINDS]
    for name, rows in again.tables.items():
        assert rows.to_csv(index=False) == (project.reports / f"{name}.csv").read_text()
    for other in ({"precision": "bfloat16"}, {"videos": 3}):  # another protocol
        with pytest.raises(AssertionError, match="read again"):
            evaluation.evaluate(replace(params, evaluation=replace(params.evaluation, **other)), project, ALONE)


def test_trained_weights_give_famous_names_everywhere(project, monkeypatch):
    loaded = []

    def load(path: Path, classes: int, key: str, device: torch.device):
        loaded.append((path, classes, key))
        return tiny_network(classes, f"{classes:x}" * 20)

    monkeypatch.setattr(evaluation, "load_i3d", load)
    params, weights = load_params(project.params), {}
    for key in ("i3d_k400", "i3d_k600"):
        (project.root / f"{key}.pt").write_text(key)
        weights[key] = Weights(**weights_of(f"{key}.pt", project.root))
    chosen = replace(params.evaluation, **weights, videos=8, splits=2)
    found = evaluation.evaluate(replace(params, evaluation=chosen), project, ALONE)
    biased = {"fvd", "fid_k400", "fid", "inception_score"}
    scores = {*biased, *PAIRS}
    metrics, measured_on = found.numbers["metrics"], found.numbers["protocol"]
    per_class = found.tables["per_class"]
    assert {name for name in metrics if not name.startswith(("probe", "motion", "grounding"))} == scores | {
        "inception_score_deviation"
    }
    assert set(found.numbers["windows"]) == scores | {"inception_score_deviation"}
    assert set(found.tables["counts"]["metric"]) == biased
    assert set(per_class.columns) == {"class", "real", "generated"} | scores
    assert len(per_class) > 0 and sum(per_class["real"]) <= 8
    assert measured_on["logits_sha256"] == "190" * 20 and measured_on["pooled_sha256"] == "258" * 20
    assert loaded == [
        (project.root / "i3d_k400.pt", 400, "evaluation.i3d_k400"),
        (project.root / "i3d_k600.pt", 600, "evaluation.i3d_k600"),
    ]


def test_classes_that_the_network_does_not_know_have_no_inception_score(project, monkeypatch):
    monkeypatch.setattr(evaluation, "load_i3d", lambda path, classes, *_: tiny_network(classes, "ab" * 32))
    monkeypatch.setattr(evaluation, "evaluation_weights", lambda *_: {"a": Path("k400.pt"), "b": None})
    params = load_params(project.params)
    found = evaluation.evaluate(params, project, ALONE)
    assert params.evaluation.splits is None and {"fvd", "fid_k400", *PAIRS} == set(found.numbers["windows"])
    assert {"fvd", "fid_k400"} == set(found.tables["counts"]["metric"])
    assert list(found.tables["per_class"].columns) == ["class", "real", "generated", "fvd", "fid_k400", *PAIRS]


def test_the_same_clips_in_arrays_give_the_same_numbers(project, tmp_path):
    params = load_params(project.params)
    sides = []
    for side, store, split in (("real", project.pyramid, "val"), ("generated", project.samples(2) / "videos", None)):
        reader = ViewReader(store, 2, split)
        clips = [reader.read(*place, 16) for place in choose_clips(params, reader, side, 4)]
        np.save(tmp_path / f"{side}.npy", np.stack(clips))
        sides.append(open_set(tmp_path / f"{side}.npy", split=None, frame_step=1))
    networks = FeatureNetworks(tiny_network(params.seed))
    found = compare(networks, sides[0], sides[1], frames=None, size=None, splits=1)
    whole = metrics(project)["metrics"]
    assert {name: found[name] for name in NAMES} == pytest.approx({name: whole[name] for name in NAMES})


def _worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    evaluation.random_i3d = _tiny  # pyright: ignore[reportAttributeAccessIssue]
    paths = Paths(Path(folder))
    with join_workers() as workers:
        found = evaluation.evaluate(load_params(paths.params), paths, workers)
    (paths.root / f"rank-{rank}.json").write_text(json.dumps(found.numbers))


# Features are float32 and may be rounded either way, by 2^-24; a distance of a hundred, quadratic in 1024 of them that
# are at most 1, moves by no more than 2 * 2^-24 * 1024.
ROUNDING = 2 * 2**-24 * 1024 / 100


def test_two_workers_find_what_one_does(project):
    shutil.rmtree(project.state / "cache")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_worker, args=(port, str(project.root)), nprocs=2)
    alone = metrics(project)
    for rank in range(2):
        together = json.loads((project.root / f"rank-{rank}.json").read_text())
        for part in KINDS:
            assert together[part] == pytest.approx(alone[part], rel=ROUNDING)
        for part in ("protocol", "windows_protocol", "cut_windows_protocol"):
            assert together[part] == alone[part]
