"""Writing a store: views of many videos as sharded Zarr v3 arrays, restartable and the same to the byte every time.

    level-1 … level-L   uint8 [video, frame, H, W, 3], 0 behind a video's end
    n_frames            int32 [video], of the highest view; 0: not decodable
    labels              int32 [video], -1: none
    videos.parquet      the table of the videos, for people; attributes: kind, classes, digest

A shard file holds many videos and a bounded number of their frames. Whole shards alone are written, each by one
assignment: two writers of one shard would lose videos.
"""

import asyncio
import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from jaxtyping import Shaped
from zarr.errors import ContainsArrayError, ContainsGroupError

from pipeline.paths import write_atomic

CHUNK_FRAMES = 12  # of the highest view; windows of the views below are shorter
LOWER_CHUNK_FRAMES = 6
SHARD_CHUNKS = 20  # along time, so that a writer never holds a whole hour twice

Videos = Shaped[np.ndarray, "videos _ H W 3"] | Sequence[Shaped[np.ndarray, "_ H W 3"]]  # uint8, which `write` checks


class StoreWriter:
    """A store in the making; any number of processes may have one on the same folder, each writing its own shards.

    path: the store's folder. Until it is finished, it also holds notes of the shards that are, for a restart to skip.
    views: (frames at most, size in pixels) by level; the highest view's frames are a multiple of every other's.
        Frames that no video has are cut off at the end.
    videos: the number of rows.
    shard_videos: rows a shard file.
    """

    def __init__(self, path: Path, *, views: Mapping[int, tuple[int, int]], videos: int, shard_videos: int):
        self.path, self.videos, self.shard_videos = path, videos, shard_videos
        self._notes = path / ".shards"
        with contextlib.suppress(ContainsGroupError):  # a restart, or another process of this job
            zarr.create_group(path)
        top = max(views)
        self._arrays: dict[int, zarr.Array[Any]] = {}
        for level, (frames, size) in sorted(views.items()):
            factor, rest = divmod(views[top][0], frames)
            if rest:
                raise ValueError(f"{views[top][0]} frames of view {top} are no multiple of view {level}'s {frames}")
            chunk = min(CHUNK_FRAMES if level == top else LOWER_CHUNK_FRAMES, frames)
            shard = chunk * min(SHARD_CHUNKS, -(-frames // chunk))
            self._arrays[level] = self._array(level, frames, size, chunk, shard, factor)

    def _array(self, level: int, frames: int, size: int, chunk: int, shard: int, factor: int) -> "zarr.Array[Any]":
        shape = (self.videos, frames, size, size, 3)
        shards = (self.shard_videos, shard, size, size, 3)
        try:
            array = zarr.create_array(
                self.path,
                name=f"level-{level}",
                shape=shape,
                dtype="uint8",
                chunks=(1, chunk, size, size, 3),
                shards=shards,
                compressors=None,
                fill_value=0,
                attributes={"time_factor": factor},
                dimension_names=("video", "frame", "y", "x", "channel"),
            )
        except ContainsArrayError:
            array = zarr.open_array(self.path, path=f"level-{level}", mode="r+")
        if (array.shape[0], *array.shape[2:]) != (self.videos, size, size, 3) or array.shards != shards:
            raise ValueError(f"{self.path}: level {level} was begun with {array.shape}, shards {array.shards}")
        if array.shape[1] != frames:  # `finish` was cut off after it had trimmed
            array.resize(shape)
        return array

    def done(self, first_row: int) -> bool:
        """Whether the shard that begins with this row is written in every view."""
        return all(self._note(level, first_row).is_file() for level in self._arrays)

    def write(self, level: int, first_row: int, videos: Videos) -> None:
        """Write one view of the videos of a whole shard; lengths may differ, and 0 frames stand for no video.

        Raises ValueError for anything but a whole shard, other sizes and more frames than the view has.
        """
        array = self._arrays[level]
        rows = min(self.shard_videos, self.videos - first_row)
        if first_row % self.shard_videos or not 0 <= first_row < self.videos or len(videos) != rows:
            raise ValueError(
                f"{len(videos)} videos from row {first_row}: not a whole shard of {self.shard_videos} rows "
                f"out of {self.videos}"
            )
        hashed = hashlib.sha256()
        for video in videos:
            if video.dtype != np.uint8 or video.shape[1:] != array.shape[2:] or len(video) > array.shape[1]:
                raise ValueError(f"level {level} takes uint8 {array.shape[1:]}, not {video.dtype} {video.shape}")
            hashed.update(len(video).to_bytes(8, "little"))
            hashed.update(np.ascontiguousarray(video).data)
        longest = max(len(video) for video in videos)
        assert array.shards is not None
        # What an earlier, unfinished attempt left could reach further in time than this one.
        shutil.rmtree(self.path / f"level-{level}" / "c" / str(first_row // self.shard_videos), ignore_errors=True)
        for start in range(0, longest, array.shards[1]):
            stop = min(start + array.shards[1], array.shape[1])
            slab = np.zeros((rows, stop - start, *array.shape[2:]), np.uint8)
            for row, video in zip(slab, videos, strict=True):
                part = video[start:stop]
                row[: len(part)] = part
            array[first_row : first_row + rows, start:stop] = slab
        write_atomic(self._note(level, first_row), json.dumps({"sha256": hashed.hexdigest(), "frames": longest}))

    def finish(self, index: pd.DataFrame, *, kind: str, classes: Sequence[str], **attributes: Any) -> str:
        """Write what belongs to the whole store, once every shard is there. Returns the digest.

        index: a row for every video that there is, with columns row, n_frames (of the highest view), label and more.
        kind: "pyramid" or "samples".
        classes: names in the order of the labels.
        attributes: further plain values; they belong to the content, so no times and no paths of this machine.
        """
        shards = range(0, self.videos, self.shard_videos)
        unwritten = [first for first in shards if not self.done(first)]
        if unwritten:
            raise ValueError(f"{self.path}: {len(unwritten)} shards are not written, the first from row {unwritten[0]}")
        content = hashlib.sha256()
        for level, array in self._arrays.items():
            notes = [json.loads(self._note(level, first).read_text()) for first in shards]
            content.update("".join(note["sha256"] for note in notes).encode())
            frames = max(1, max(note["frames"] for note in notes))
            # Nothing lies behind it: without deletion zarr does not walk through a grid of thousands of absent shards.
            trimmed = array.async_array.resize((self.videos, frames, *array.shape[2:]), delete_outside_chunks=False)
            asyncio.run(trimmed)
        for name, column, missing in (("n_frames", "n_frames", 0), ("labels", "label", -1)):
            values = np.full(self.videos, missing, np.int32)
            values[index["row"].to_numpy(np.int64)] = index[column].to_numpy(np.int32)
            zarr.create_array(
                self.path, name=name, data=values, chunks=(self.videos,), compressors=None, overwrite=True
            )
        index.to_parquet(self.path / "videos.parquet", index=False)
        attributes = {"kind": kind, "classes": list(classes), **attributes}
        content.update(index.to_csv(index=False).encode())
        content.update(json.dumps(attributes, sort_keys=True).encode())
        digest = content.hexdigest()
        zarr.open_group(self.path, mode="r+").attrs.put({**attributes, "digest": digest})
        shutil.rmtree(self._notes)
        return digest

    def _note(self, level: int, first_row: int) -> Path:
        return self._notes / f"level-{level}-{first_row:08d}.json"


def frame_bounds(frames: int, factors: Sequence[int]) -> dict[int, int]:
    """Frames at most by level, for a StoreWriter: of the highest view at least `frames`, and whole in every view.

    factors: K_T between successive views, lowest first.
    """
    lowest = -(-frames // math.prod(factors))
    return {level + 1: lowest * math.prod(factors[:level]) for level in range(len(factors) + 1)}
