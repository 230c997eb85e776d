"""Broken and malicious files, and what is no video: each is kept or listed with a reason, and costs no other."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from pipeline.data.decode import decode
from pipeline.data.layouts.listing import prepare_listing
from pipeline.data.video.errors import VideoError
from pipeline.paths import Paths
from tests.pipeline.data.test_decode import params
from tests.pipeline.data.video import test_video
from tests.pipeline.data.video.test_video import CLIPS, ENGINES, clips
from tests.pipeline.data.video.test_video_kinds import H264, ffmpeg, quadrants, yuv

BARE = ("Invalid data found", "Invalid argument", "End of file", "Errno", "Traceback", "@ 0x", "b'", "<av.", "Error(")


def frames_of(project: Paths) -> dict[str, tuple[np.ndarray, ...]]:
    """Both views of every video that was kept."""
    table = pd.read_parquet(project.pyramid / "videos.parquet")
    views = [np.asarray(zarr.open_array(project.pyramid, path=f"level-{level}", mode="r")) for level in (1, 2)]
    rows = zip(table["path"], table["row"], table["n_frames"], strict=True)
    return {path: (views[0][row, : -(-count // 2)], views[1][row, :count]) for path, row, count in rows}


def read(content: bytes, path: Path, engine: str, **options: Any) -> np.ndarray:
    path.write_bytes(content)
    return test_video.decode(path, engine, **options)[0]


@clips
@pytest.mark.parametrize("engine", ENGINES)
def test_every_clip_is_kept_or_listed_with_a_reason(tmp_path, engine):
    project, chosen = Paths(tmp_path), params(max_failed=1.0, frame_step=8, engine=engine, shard_videos=8)
    for folder in ("nasty", "misc"):
        shutil.copytree(CLIPS / folder, tmp_path / "videos" / folder)
    prepare_listing(chosen, project)
    decode(chosen, project, 2)
    kept = frames_of(project)
    failed = pd.read_csv(project.pyramid / "failed.csv")
    files = {str(path.relative_to(tmp_path / "videos")) for path in (tmp_path / "videos").glob("*/*")}
    assert sorted([*kept, *failed["path"]]) == sorted(files)
    assert all(len(top) and top.any() for _, top in kept.values())
    reasons = dict(zip(failed["path"].str.removeprefix("nasty/"), failed["reason"], strict=True))
    for name, words in {
        "zero_bytes.webm": "0 bytes",
        "one_byte.mp4": "ends behind byte 1",
        "WrongFile.mp4": "ends behind byte 48",
        "empty.flv": "ends behind byte 13",
        "git_lfs_pointer.mp4": "a Git LFS pointer",
        "broken.mp4": "index (moov) is missing or damaged",
        "chunk_out_of_range.mp4": "index (moov) is missing or damaged",
        "audio_only_52s.mp4": "sound alone",
        "audio_only_stub.mp4": "sound alone",
        "short-cenc.mp4": "encrypted",
        "bipbop_nonfragment_header.mp4": "no frame decodes",
        "invalid_userdata.mp4": "no frame decodes",
        "zero_empty_stsc.mp4": "no frame decodes",
    }.items():
        assert words in reasons.pop(name)
    assert not reasons
    assert not [reason for reason in failed["reason"] for bare in BARE if bare in reason]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!doctype html>\n<title>404</title>" * 20, "text that begins '<!doctype html> <title>"),
        (b'{"error": "video unavailable"}', 'text that begins \'{"error"'),
        (bytes(range(256)) * 40, "of no known format"),
        (bytes(4000), "of no known format"),
    ],
)
def test_what_is_no_video(tmp_path, engine, content, reason):
    with pytest.raises(VideoError, match=re.escape(reason)):
        read(content, tmp_path / "a.mp4", engine)


# Small files of many containers and codecs; longer ones are cut off here, which is one more thing to bear.
SOURCES = (
    *("misc/sample.3gp", "misc/bbb_1s.webm", "misc/Test.ogv", "nasty/clip1024.flv"),
    *("nasty/av1_video.mkv", "nasty/video_90.mov", "nasty/h265_video.mp4", "nasty/var_fps_video.mp4"),
    *("nasty/transparent.webm", "nasty/weird_aspect.small.mpg", "nasty/delayed_start.mp4"),
    "kinetics/train/tai chi/Vhq58hDxlFE_000021_000031.mp4",
    "kinetics/train/flipping pancake/7rSoYrzzGvE_000013_000023.mkv",
)
MADE = {
    "made.avi": ["-c:v", "mpeg4", "-bf", "2"],
    "made.ts": ["-c:v", "libx264", "-bf", "3"],
    "made.wmv": ["-c:v", "wmv2"],
    "made.mp4": ["-c:v", "libx264", "-bf", "2"],
    "made.mkv": ["-c:v", "mpeg2video"],
    "made.webm": ["-c:v", "libvpx", "-b:v", "300k"],
    "made.gif": [],
}
LARGEST = 150_000


def sources(folder: Path) -> dict[str, bytes]:
    """Small files of several kinds, and the real clips where they are."""
    found = {name: (CLIPS / name).read_bytes()[:LARGEST] for name in SOURCES if CLIPS.is_dir()}
    for name, options in MADE.items():
        ffmpeg("-f", "lavfi", "-i", "testsrc=s=160x96:r=25:d=2", *options, str(folder / name))
        found[name] = (folder / name).read_bytes()
    return found


def mutant(whole: bytes, other: bytes, seed: int) -> bytes:
    """A file with bytes changed, cut off, or with a piece taken out, doubled, or taken from another file."""
    rng = np.random.default_rng(seed)
    data = bytearray(whole)
    first, last = sorted(rng.integers(0, len(data), 2).tolist())
    last = min(last, first + 20_000)
    kind = seed % 6
    if kind < 2:  # headers lie at both ends
        reach = len(data) if kind else min(len(data), 3000)
        for place in rng.integers(0, reach, rng.integers(1, 40)).tolist():
            place = place if rng.random() < 0.7 else len(data) - 1 - place
            data[place] = rng.integers(256)
    elif kind == 2:
        del data[first:]
    elif kind == 3:
        del data[first:last]
    elif kind == 4:
        data[first:first] = data[first:last]
    else:
        place = int(rng.integers(0, len(other)))
        data[first:last] = other[place : place + last - first]
    return bytes(data)


@pytest.mark.parametrize("mutants", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_mutants_cost_no_neighbour(tmp_path, mutants):
    """Broken files, an intact one behind every tenth: no crash, no hang, and the intact ones are what they were."""
    whole = sources(tmp_path)
    names = list(whole)
    chosen = params(max_failed=1.0, shard_videos=16, max_frames=16, timeout=30)
    alone, among = Paths(tmp_path / "alone"), Paths(tmp_path / "among")
    for number in range(mutants):
        name, other = names[number % len(names)], names[(number * 7 + 3) % len(names)]
        broken = among.root / "videos" / f"{number:03d}-mutant{Path(name).suffix}"
        broken.parent.mkdir(parents=True, exist_ok=True)
        broken.write_bytes(mutant(whole[name], whole[other], number))
        if number % 10 == 0:
            intact = names[number // 10 % len(names)]
            for project in (alone, among):
                path = project.root / "videos" / f"{number:03d}-whole{Path(intact).suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(whole[intact])
    for project in (alone, among):
        prepare_listing(chosen, project)
        decode(chosen, project, 2)
    expected, kept = frames_of(alone), frames_of(among)
    assert len(expected) == mutants // 10
    for path, views in expected.items():
        assert all(np.array_equal(*pair) for pair in zip(kept[path], views, strict=True)), path
    failed = pd.read_csv(among.pyramid / "failed.csv")
    assert len(kept) + len(failed) == mutants + mutants // 10
    stopped = failed[failed["reason"].str.contains("crashed|hung|timeout")]
    assert stopped.empty, stopped
    assert not [reason for reason in failed["reason"] for bare in BARE if bare in reason]
    assert mutants / 15 < len(failed) < mutants / 1.5  # they are broken, and not beyond hope
    assert not any(top.shape[0] == 0 for _, top in kept.values())


@pytest.mark.parametrize("stage", ["decode", "make_shapes"])
def test_a_folder_too_deep_for_sockets_is_named(tmp_path, stage):
    deep = tmp_path / "t" / ("d" * 100)
    deep.mkdir(parents=True)
    (tmp_path / "videos").mkdir()
    quadrants(tmp_path / "videos" / "good.mp4", yuv("yuv420p"), [*H264, "-bf", "0"])
    prepare_listing(params(), Paths(tmp_path))
    program = (
        "from tests.pipeline.data.test_decode import params; from pipeline.data.decode import decode; import sys\n"
        "from pipeline.paths import Paths; from pathlib import Path; from pipeline.errors import writing\n"
        "from pipeline.data.shapes_files import make_shapes; from pipeline.params import ShapesParams\n"
        "shapes, paths = ShapesParams(classes=8, train=2, val=2, size=16, frames=4, fps=4), Paths(Path(sys.argv[1]))\n"
        "with writing(): "
        + {"decode": "decode(params(), paths, 1)", "make_shapes": "make_shapes(shapes, 's', 0, paths, 1)"}[stage]
    )
    env = {**os.environ, "TMPDIR": str(deep)}
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=env, capture_output=True, text=True)
    assert f"UserError: TMPDIR: {deep} is too long a path for sockets" in done.stderr
