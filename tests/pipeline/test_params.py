import copy
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.errors import UserError
from pipeline.params import load_params, parse_params
from pipeline.system.values import fingerprint

SHAPES = {"classes": 8, "train": 1, "val": 1, "size": 2, "frames": 1, "fps": 1}
RECIPES = sorted(Path("recipes").glob("*.yaml"))


@pytest.fixture
def raw():
    return YAML(typ="safe").load(Path("recipes/shapes.yaml"))


def put(raw, key, value):
    *above, last = key.split(".")
    place = raw
    for part in above:
        place = place[part]
    place[last] = value
    return raw


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_comments_every_key_once(recipe):
    params = load_params(recipe)
    assert params.n_levels >= (1 if recipe.stem == "shapes-64" else 2)
    text = recipe.read_text()
    assert text.startswith("# ")
    others = '  "2":\n' if params.n_levels > 1 else "\nconditions:"
    first_level = text[text.index('  "1":\n') : text.index(others, text.index('  "1":\n'))]
    for line in first_level.splitlines():
        if not line.endswith(":"):
            assert "#" in line, line


def test_a_recipe_of_one_level_is_measured_whole():
    one, two = (load_params(Path("recipes") / f"{name}.yaml") for name in ("shapes-64", "shapes"))
    assert (one.n_levels, one.window(1), one.measured_window) == (1, 8, None)
    assert two.measured_window == 4


def test_geometry(raw):
    params = parse_params(raw)
    assert params.factors == (2,)
    assert params.window(1) == 8
    assert params.window(2) == 4
    level = params.level(2, classes=8)
    assert (level.factor, level.first_size, level.classes) == (2, 4, 8)


NO_LISTINGS = (
    *(
        "../listing.csv",
        "/data/listing.csv",
        "dvc.yaml",
        ".git/config",
        "params.yaml",
        "data/x/../../a.csv",
        "data/.csv",
    ),
    *(
        "data/pyramid/videos.csv",
        "data/./pyramid/x.csv",
        "data//samples/x.csv",
        "data/samples/level-1/a.csv",
        "data/listing",
        "listing.csv",
    ),
)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("levels.2.training.bach", 3, "levels.2.training.bach: no such parameter"),
        ("seed", "x", 'seed: Input should be a valid integer, not "x"'),
        ("levels.2.training.batch", -1, "levels.2.training.batch: Input should be greater than 0, not -1"),
        ("views.2.size", 33, "views.2: must be a whole multiple of view 1"),
        ("levels.1.generator.multipliers", [1] * 9, "levels.1.generator.multipliers: 9 units cannot double"),
        ("levels.1.discriminators.matching", True, "levels.1.discriminators.matching: must be false"),
        ("levels.2.training.window", 9, "levels.2.training.window: longer than the condition"),
        ("levels.2.condition", "data/samples/level-1", "levels.2.condition: must be 'data/conditions/level-1'"),
        ("levels.2.below", "data/samples/level-2", "levels.2.below: must be 'data/samples/level-1'"),
        ("conditions.1.condition", "a", "conditions.1.condition: must be 'data/pyramid/videos.parquet'"),
        ("conditions", {}, "conditions: one for every level below the top, ['1'], not []"),
        ("evaluation.videos", 10**6, "evaluation.videos: there are only 64 (samples.videos)"),
        ("evaluation.psd_frames", [1, 17], "evaluation.psd_frames: must be some of the top view's frames, 1 to 16"),
        ("evaluation.psd_frames", [], "evaluation.psd_frames: must be some of the top view's frames, 1 to 16"),
        ("levels.1.generator.multipliers", [], "levels.1.generator.multipliers: must be positive, not []"),
        ("levels.2.generator.channels", 0, "levels.2.generator.channels: must be positive, not 0"),
        ("levels.2.discriminators.frames", 0, "levels.2.discriminators.frames: must be positive, not 0"),
        (
            "levels.2.discriminators.multipliers",
            [1] * 6,
            "levels.2.discriminators.multipliers: 6 blocks halve 16 pixels",
        ),
        ("levels.2.training.betas", [0.0, 1.0], "levels.2.training.betas.1: Input should be less than 1, not 1.0"),
        ("views.1.frames", 0, "views.1.frames: must be positive, not 0"),
        ("views", {1: {}, 2: {}}, 'views: keys must be quoted, "1": DVC drops numbers silently'),
        ("seed", 2**70, "seed: "),
        ("evaluation.videos", 1, "evaluation.videos: Input should be greater than or equal to 2, not 1"),
        *(("data.listing", name, "data.listing: must be a .csv below data/") for name in NO_LISTINGS),
        ("decode.fps", 10, "decode.fps: give it or decode.frame_step, and null"),
        ("decode.frame_step", None, "decode.fps: give it or decode.frame_step, and null"),
        ("decode.fps", 1001, "decode.fps: Input should be less than or equal to 1000, not 1001"),
        ("decode.fps", 0, "decode.fps: Input should be greater than or equal to 0.02, not 0"),
        ("decode.max_frames", 15, "decode.max_frames: fewer than the 16 of the top view"),
        ("decode.store", "nosuch://a", "decode.store: fsspec knows no scheme nosuch://"),
        ("views.2.frames", 2**21, "views.2.frames: must be at most 1048576, not 2097152"),
        ("shapes", {"a; touch x": SHAPES}, "shapes: 'a; touch x' names a folder of data/"),
        ("shapes", {"pyramid": SHAPES}, "shapes: 'pyramid' names a folder of data/"),
        ("levels.1.training.start", "a", "levels.1.training.start: Input should be an object"),
        ("levels.1.training.start", {"path": "a"}, "levels.1.training.start.sha256: missing"),
        ("levels.1.training.start", {"path": "a", "sha256": "A" * 64}, "levels.1.training.start.sha256: String should"),
        ("levels.1.training.start", {"path": "", "sha256": "a" * 64}, "levels.1.training.start.path: String should"),
        (
            "levels.1.training.start",
            {"path": "./artifacts/level-1", "sha256": "a" * 64},
            "levels.1.training.start: training replaces what lies in artifacts",
        ),
        ("shapes.shapes.size", 63, "shapes.shapes.size: Input should be a multiple of 2, not 63"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(raw, key, value, message):
    with pytest.raises(UserError) as refused:
        parse_params(put(raw, key, value))
    assert str(refused.value).startswith(f"params.yaml: {message}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("place", ["artifacts/level-1", ".hvg/work/train/checkpoint.pt", "videos/../artifacts", "link"])
def test_a_start_is_not_what_training_replaces(raw, tmp_path, place):
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "one"  # of DVC's, in which a relative path is the checkout's
    copy.mkdir(parents=True)
    (tmp_path / "videos").mkdir()
    (tmp_path / "link").symlink_to("artifacts/level-2")
    for root, path in ((tmp_path, place), (tmp_path, f"{tmp_path}/{place}"), (copy, place)):
        start = put(raw, "levels.1.training.start", {"path": path, "sha256": "a" * 64})
        with pytest.raises(UserError, match=r"levels\.1\.training\.start: training replaces what lies in artifacts"):
            parse_params(start, root / "params.yaml")
    for kept in (".hvg/starts/one", f"{tmp_path}/given/artifacts"):
        parse_params(put(raw, "levels.1.training.start", {"path": kept, "sha256": "a" * 64}), tmp_path / "params.yaml")


def test_missing_parts(raw, tmp_path):
    del raw["levels"]["2"]["training"]["batch"]
    with pytest.raises(UserError, match=r"levels\.2\.training\.batch: missing"):
        parse_params(raw)
    with pytest.raises(UserError, match="no such parameter file"):
        load_params(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_params(tmp_path / "broken.yaml")


def test_a_gap_in_the_levels(raw):
    raw["levels"]["4"] = raw["levels"].pop("2")
    with pytest.raises(UserError, match='levels: keys must be "1", "2"'):
        parse_params(raw)


def test_the_fingerprint_knows_values_and_not_order(raw):
    again = parse_params(dict(reversed(list(copy.deepcopy(raw).items()))))
    params = parse_params(raw)
    assert fingerprint(params) == fingerprint(again)
    assert fingerprint(params) != fingerprint(parse_params(put(raw, "seed", 1)))


def test_unknown_number_of_classes(raw):
    with pytest.raises(UserError, match=r"data\.classes is null"):
        parse_params(put(raw, "data.classes", None)).level(1)
