"""A recipe becomes params.yaml: values set, comments kept, other people's edits left alone."""

import hashlib
import re
import shutil
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.metrics.weights import INSTALLED, INSTALLED_SHA256
from pipeline.params import load_params
from pipeline.paths import Paths
from pipeline.project.recipes import apply_recipe, edited, recipe_names, set_aside
from pipeline.system.values import Weights

LAUGHS = "data={a0: &a0 {x: 0}" + "".join(f", a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 18)) + "}"
STOPPING = "levels.1.training.measure={{every: 1, patience: 1, splits: null, videos: 2, i3d: {}}}"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "recipes").mkdir()
    shutil.copy(ROOT / "recipes" / "shapes.yaml", tmp_path / "recipes")
    return Paths(tmp_path)


def test_a_recipe_without_settings_is_copied(paths):
    assert recipe_names(paths) == ["shapes"]
    apply_recipe(paths, "shapes")
    assert paths.params.read_bytes() == (paths.root / "recipes" / "shapes.yaml").read_bytes()
    assert not edited(paths)


def test_settings_are_yaml_and_comments_stay(paths):
    settings = ["data.root=/videos", "levels.2.training.iterations=7", "shapes={}", "evaluation.psd_frames=[1, 2]"]
    params = apply_recipe(paths, "shapes", [*settings, "evaluation.split=2", "data.classes=0"])
    assert (params.data.root, params.levels["2"].training.iterations, params.shapes) == ("/videos", 7, {})
    assert (params.evaluation.psd_frames, params.evaluation.split, params.data.classes) == ((1, 2), "2", 0)
    assert load_params(paths.params) == params
    assert "# of everything random" in paths.params.read_text()


def test_only_the_line_of_a_setting_changes(paths):
    apply_recipe(paths, "shapes", ["seed=7"])
    before = (paths.root / "recipes" / "shapes.yaml").read_text().splitlines()
    after = paths.params.read_text().splitlines()
    assert [(a, b) for a, b in zip(before, after, strict=True) if a != b] == [
        (
            "seed: 0                        # of everything random",
            "seed: 7                        # of everything random",
        )
    ]


def test_a_second_recipe_replaces_the_first_and_settings_add_up(paths):
    apply_recipe(paths, "shapes", ["seed=1"])
    apply_recipe(paths, None, ["decode.frame_step=3"])
    assert (load_params(paths.params).seed, load_params(paths.params).decode.frame_step) == (1, 3)
    assert apply_recipe(paths, "shapes").seed == 0


def test_an_edited_file_is_refused_without_force(paths):
    apply_recipe(paths, "shapes")
    paths.params.write_text(paths.params.read_text().replace("seed: 0", "seed: 5"))
    with pytest.raises(UserError, match="has been edited"):
        apply_recipe(paths, "shapes")
    apply_recipe(paths, None, ["decode.frame_step=3"])  # a change on top of an edit
    with pytest.raises(UserError, match="has been edited"):
        apply_recipe(paths, "shapes")
    assert load_params(paths.params).seed == 5
    mine = paths.params.read_text()
    assert apply_recipe(paths, "shapes", force=True).seed == 0
    assert (paths.state / "set-aside" / "params.yaml.1").read_text() == mine


@pytest.mark.parametrize("damage", [b"a: [1\n", b"\xff\xfe", b""])
def test_a_damaged_file_is_kept_beside_the_recipe_in_its_place(paths, damage):
    paths.params.write_bytes(damage)
    with pytest.raises(UserError, match=r"has been edited: `hvg recipe shapes --force` replaces it and keeps it"):
        apply_recipe(paths, "shapes")
    with pytest.raises(UserError, match=r"params.yaml") as raised:
        apply_recipe(paths, None, ["seed=3"])
    assert "\n" not in str(raised.value) and paths.params.read_bytes() == damage
    apply_recipe(paths, "shapes", force=True)
    assert (paths.state / "set-aside" / "params.yaml.1").read_bytes() == damage


def test_what_is_known_of_the_last_recipe_may_be_damaged(paths):
    apply_recipe(paths, "shapes", ["seed=3"])
    (paths.state / "params.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="has been edited"):  # for all one knows
        apply_recipe(paths, "shapes")
    apply_recipe(paths, "shapes", force=True)
    assert apply_recipe(paths, "shapes", ["seed=4"]).seed == 4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.rot=/videos", "data.rot: no such parameter"),
        ("dat.root=/videos", "dat.root: no such parameter"),
        ("seed.x=1", "seed.x: no such parameter"),
        ("seed=many", "seed: "),
        ("seed=[", "not valid YAML"),
        ("seed", "expected KEY=VALUE"),
        ("data=&a {x: *a}", r"--set data: x\.x\..*too deep within each other"),
        ("seed=.nan", "--set seed: must be a finite number"),
        ("evaluation.i3d_k400=~nosuchuser/x", "~nosuchuser/x: .*home directory"),
        (STOPPING.format("~nosuchuser/x"), "~nosuchuser/x: .*home directory"),
        (LAUGHS, "--set data: .*more values than a file may hold"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(paths, setting, message):
    with pytest.raises(UserError, match=message) as raised:
        apply_recipe(paths, "shapes", [setting])
    assert "\n" not in str(raised.value)
    assert not paths.params.exists()


def test_a_set_of_shapes_takes_no_folder_of_others(paths):
    video = paths.root / "data" / "shapes" / "a.mp4"
    video.parent.mkdir(parents=True)
    video.touch()
    with pytest.raises(UserError, match=rf"shapes\.shapes: make-shapes would remove {video}"):
        apply_recipe(paths, "shapes")
    assert not paths.params.exists()
    apply_recipe(paths, "shapes", ["shapes={}"])


def test_weights_have_their_hash_beside_them(paths):
    (paths.root / "k600.pt").write_bytes(b"some")
    some = Weights(file="k600.pt", sha256=hashlib.sha256(b"some").hexdigest())
    params = apply_recipe(paths, "shapes", ["evaluation.i3d_k600=k600.pt", STOPPING.format("k600.pt")])
    chosen = params.levels["1"].training.measure
    assert chosen is not None and chosen.i3d == params.evaluation.i3d_k600 == some
    assert params.evaluation.i3d_k400 == Weights(file="installed", sha256=INSTALLED_SHA256)
    assert apply_recipe(paths, None, ["evaluation.i3d_k400=null"]).evaluation.i3d_k400 is None
    installed = apply_recipe(paths, None, ["evaluation.i3d_k400=installed"]).evaluation.i3d_k400
    assert installed == Weights(file="installed", sha256=INSTALLED_SHA256)
    with pytest.raises(UserError, match=r"none\.pt: no such file of I3D weights"):
        apply_recipe(paths, None, ["evaluation.i3d_k600=none.pt"])
    text = paths.params.read_text()
    paths.params.write_text(re.sub(r"i3d_k600:.*\n.*\n.*\n", "i3d_k600: k600.pt\n", text))
    with pytest.raises(UserError, match=r"evaluation\.i3d_k600: .*`hvg recipe --set KEY=FILE` puts there, not \"k600"):
        load_params(paths.params)


@pytest.mark.parametrize("name", recipe_names(Paths(ROOT)))
def test_every_recipe_measures_by_the_installed_weights(name):
    params = load_params(ROOT / "recipes" / f"{name}.yaml")
    assert params.evaluation.i3d_k400 == Weights(file=INSTALLED, sha256=INSTALLED_SHA256)
    assert (params.evaluation.splits is not None) == (params.data.layout == "kinetics" and not params.rendered)


def test_an_unknown_recipe_names_those_there_are(paths):
    with pytest.raises(UserError, match="no recipe 'shape'; there are shapes"):
        apply_recipe(paths, "shape")


def test_levels_that_a_recipe_does_not_have_are_set_aside_and_kept(paths):
    params = apply_recipe(paths, "shapes")
    for round_ in (1, 2):
        for level in (1, 2, 3):
            for folder in (paths.artifact(level), paths.samples(level)):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "of").write_text(f"{level} {round_}")
        moved = set_aside(paths, params)
        assert [old for old, _ in moved] == [paths.artifact(3), paths.samples(3)]
        assert [(new / "of").read_text() for _, new in moved] == [f"3 {round_}"] * 2
        assert {folder.name for folder in (paths.root / "artifacts").iterdir()} == {"level-1", "level-2"}
    assert set_aside(paths, params) == []
    assert len(list((paths.state / "set-aside").rglob("level-3.*"))) == 4
