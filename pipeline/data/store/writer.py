"""Writing a store: views of many videos as sharded Zarr v3 arrays, restartable and the same to the byte every time.

    level-1 … level-L   uint8 [video, frame, H, W, 3], 0 behind a video's end
    n_frames            int32 [video], of the highest view; 0: not decodable
    labels              int32 [video], -1: none
    videos.parquet      the table of the videos, for people; attributes: kind, classes, digest

A shard file holds many videos and a bounded number of their frames. A shard has one writer, which gives its files
their names when all of them are finished. With a URL the arrays lie there, and beside the table here store.json says
where, with the hash of every file.
"""

import contextlib
import hashlib
import json
import math
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import zarr
from jaxtyping import Shaped
from zarr.core.sync import sync
from zarr.errors import ContainsArrayError, ContainsGroupError
from zarr.storage import FsspecStore, LocalStore

from pipeline.data.store.codecs import Codec
from pipeline.data.store.shard import Grid, ShardWriter
from pipeline.errors import UserError
from pipeline.paths import write_atomic
from pipeline.system.values import fingerprint

CHUNK_FRAMES = 12  # of the highest view; windows of the views below are shorter
LOWER_CHUNK_FRAMES = 6
SHARD_CHUNKS = 20  # along time: an hour is many files

Videos = Shaped[np.ndarray, "videos _ H W 3"] | Sequence[Shaped[np.ndarray, "_ H W 3"]]  # uint8, which `write` checks


class StoreWriter:
    """A store in the making; any number of processes may have one on the same folder, each writing its own shards.

    path: the store's folder, for these views and videos alone. Notes of the shards that are finished, for a restart
        to skip, lie in <path>.shards: they are the caller's to delete once the store has its final name.
    views: (frames at most, size in pixels) by level; the highest view's frames are a multiple of every other's.
        Frames that no video has are cut off at the end.
    videos: the number of rows.
    shard_videos: rows a shard file.
    codec: of the highest view; of all views where it loses nothing.
    url: where the arrays go, a folder in the words of fsspec; None: into `path`.

    Raises UserError where the URL cannot be opened, and so does every method where it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        views: Mapping[int, tuple[int, int]],
        videos: int,
        shard_videos: int,
        codec: Codec = Codec(),  # noqa: B008, it is frozen
        url: str | None = None,
    ):
        self.path, self.videos, self.shard_videos, self.url = path, videos, shard_videos, url
        self.grids = cut(views, codec)
        self._notes = path.with_name(f"{path.name}.shards")
        path.mkdir(parents=True, exist_ok=True)
        with self._reached():
            if url is None:
                self._store, self._there, self._base = LocalStore(path), fsspec.filesystem("file"), str(path.absolute())
            else:
                # What fsspec takes for a disk of this machine makes folders only when told to.
                options = {"auto_mkdir": True} if url.startswith(("file://", "local://")) else {}
                self._store = FsspecStore.from_url(url, storage_options=options)
                self._there, self._base = fsspec.core.url_to_fs(url, **options)
            if not self._there.exists(f"{self._base}/zarr.json"):
                shutil.rmtree(self._notes, ignore_errors=True)  # of a store that has been published
            with contextlib.suppress(ContainsGroupError):  # a restart, or another process of this job
                zarr.create_group(self._store)
            self._arrays = {level: self._array(level, frames) for level, (frames, _) in sorted(views.items())}

    def _array(self, level: int, frames: int) -> "zarr.Array[Any]":
        grid = self.grids[level]
        shape = (self.videos, frames, grid.size, grid.size, 3)
        try:
            array = zarr.create_array(
                self._store,
                name=f"level-{level}",
                shape=shape,
                dtype="uint8",
                chunks=(1, grid.chunk, *shape[2:]),
                shards=(self.shard_videos, grid.chunk * grid.chunks, *shape[2:]),
                fill_value=0,
                attributes={"time_factor": grid.factor},
                dimension_names=("video", "frame", "y", "x", "channel"),
                **grid.codec.zarr_arguments,
            )
        except ContainsArrayError:
            array = zarr.open_array(self._store, path=f"level-{level}", mode="r+")
        if array.shape[1] != frames:  # `finish` was cut off after it had trimmed
            array.resize(shape)
        return array

    def done(self, first_row: int) -> bool:
        """Whether the shard that begins with this row is written in every view."""
        return self._note(first_row).is_file()

    def facts(self, first_row: int) -> list[Any]:
        """The facts that the writer of a finished shard left."""
        return json.loads(self._note(first_row).read_text())["facts"]

    def forget(self, first_row: int) -> None:
        """Let a shard be written once more."""
        self._note(first_row).unlink(missing_ok=True)

    @contextlib.contextmanager
    def shard(self, first_row: int) -> Iterator[ShardWriter]:
        """Write the shard that begins with this row; it counts once the context is left without an exception."""
        if first_row % self.shard_videos or not 0 <= first_row < self.videos:
            raise ValueError(f"row {first_row}: no shard of {self.shard_videos} rows out of {self.videos} begins here")
        for left in self._notes.glob(f"{first_row:08d}-*"):  # by a writer that was killed
            shutil.rmtree(left)
        folder = self._notes / f"{first_row:08d}-{uuid.uuid4().hex}"
        try:
            # The index has a place for every row that a shard may have, also in a last one with fewer.
            writer = ShardWriter(folder, self.grids, self.shard_videos)
            yield writer
            number, files = first_row // self.shard_videos, {}
            for (level, part), file in writer.finish().items():
                key = f"level-{level}/c/{number}/{part}/0/0/0"
                with file.open("rb") as content:
                    digest = hashlib.file_digest(content, "sha256").hexdigest()
                files[key] = {"sha256": digest, "bytes": file.stat().st_size}
                self._put(file, key)
            self._remove_others(number, files)
            write_atomic(self._note(first_row), json.dumps({"files": files, "facts": writer.facts}))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def write(self, first_row: int, views: Mapping[int, Videos]) -> None:
        """Write a whole shard at once: every view's videos. Lengths may differ, and 0 frames stand for no video.

        Raises ValueError for anything but a whole shard, other sizes and more frames than a view has.
        """
        rows = min(self.shard_videos, self.videos - first_row)
        with self.shard(first_row) as shard:
            for level, videos in views.items():
                if len(videos) != rows or set(views) != set(self.grids):
                    raise ValueError(f"{len(videos)} videos of view {level}: a shard has {rows} of {list(self.grids)}")
                if max(map(len, videos)) > self._arrays[level].shape[1]:
                    raise ValueError(f"level {level} takes {self._arrays[level].shape[1]} frames at most")
            for row in range(rows):
                shard.begin(row)
                for level, videos in views.items():
                    step = self.grids[level].chunk
                    for start in range(0, len(videos[row]), step):
                        shard.append(level, videos[row][start : start + step])

    def finish(self, index: pd.DataFrame, *, kind: str, classes: Sequence[str], **attributes: Any) -> str:
        """Write what belongs to the whole store, once every shard is there. Returns the digest.

        index: a row for every video that there is, with columns row, n_frames (of the highest view), label and more.
        kind: "pyramid" or "samples".
        classes: names in the order of the labels.
        attributes: further plain values, of which the digest does not tell: no times and no paths of this machine.
        """
        shards = range(0, self.videos, self.shard_videos)
        unwritten = [first for first in shards if not self.done(first)]
        if unwritten:
            raise ValueError(f"{self.path}: {len(unwritten)} shards are not written, the first from row {unwritten[0]}")
        for pattern in (".*", "*.partial", "*/*.partial"):  # write_atomic's and zarr's, where a finish was killed
            for left in self.path.glob(pattern):
                left.unlink()
        notes = [json.loads(self._note(first).read_text()) for first in shards]
        files = {key: facts for note in notes for key, facts in note["files"].items()}
        with self._reached():
            self._finish_arrays(index)
        index.to_parquet(self.path / "videos.parquet", index=False)
        table = hashlib.sha256((self.path / "videos.parquet").read_bytes()).hexdigest()
        meaning = {"kind": kind, "classes": list(classes)}
        content = hashlib.sha256("".join(f"{key} {facts['sha256']}\n" for key, facts in sorted(files.items())).encode())
        content.update(index.to_csv(index=False).encode())
        content.update(json.dumps(meaning, sort_keys=True).encode())
        digest = content.hexdigest()
        with self._reached():
            said = {**meaning, **attributes, "digest": digest, "table": table}
            zarr.open_group(self._store, mode="r+").attrs.put({**said, "checksum": fingerprint(said)})
        if self.url is not None:
            manifest = {"url": self.url, "digest": digest, "table": table, "files": dict(sorted(files.items()))}
            write_atomic(self.path / "store.json", json.dumps(manifest, indent=1))
        return digest

    def _finish_arrays(self, index: pd.DataFrame) -> None:
        """Cut off the frames that no video has, and write the numbers of every row."""
        longest = max(index["n_frames"].tolist(), default=0)
        for level, array in self._arrays.items():
            frames = max(1, -(-longest // self.grids[level].factor))
            # Nothing lies behind it: without deletion zarr does not walk through a grid of thousands of absent shards.
            trimmed = array.async_array.resize((self.videos, frames, *array.shape[2:]), delete_outside_chunks=False)
            sync(trimmed)  # in zarr's own loop, to which a remote store's connections belong
        for name, column, missing in (("n_frames", "n_frames", 0), ("labels", "label", -1)):
            values = np.full(self.videos, missing, np.int32)
            values[index["row"].to_numpy(np.int64)] = index[column].to_numpy(np.int32)
            chunks = (self.videos,)
            zarr.create_array(self._store, name=name, data=values, chunks=chunks, compressors=None, overwrite=True)

    def _note(self, first_row: int) -> Path:
        return self._notes / f"{first_row:08d}.json"

    def _remove_others(self, number: int, files: Mapping[str, Any]) -> None:
        """What an earlier attempt at a shard left where it reached further in time than this one.

        Only now, and nothing else: a store that was published at a URL may be made again, to the same files.
        """
        with self._reached():
            for level in self.grids:
                place = f"level-{level}/c/{number}"
                found = [f"{place}{file.rpartition(place)[2]}" for file in self._there.find(f"{self._base}/{place}")]
                for key in sorted(set(found) - set(files)):
                    self._there.rm_file(f"{self._base}/{key}")

    def _put(self, file: Path, key: str) -> None:
        """A finished file gets its name: by a rename, or as a whole object."""
        with self._reached():
            self._there.makedirs(f"{self._base}/{key}".rpartition("/")[0], exist_ok=True)
            if self.url is None:
                file.replace(self.path / key)
            else:
                self._there.put_file(str(file), f"{self._base}/{key}")

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """UserError for what goes wrong at the URL; a disk of ours keeps its OSError."""
        try:
            yield
        except Exception as error:  # every store's library has errors of its own
            if self.url is None or isinstance(error, UserError):
                raise
            said = " ".join((str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}").split())
            raise UserError(f"decode.store: {self.url.rpartition('/')[0]} cannot be written: {said}") from error


def cut(views: Mapping[int, tuple[int, int]], codec: Codec) -> dict[int, Grid]:
    """How a StoreWriter cuts its views, by level. Raises ValueError where the highest's frames are no multiple."""
    top, grids = max(views), {}
    for level, (frames, size) in sorted(views.items()):
        factor, rest = divmod(views[top][0], frames)
        if rest:
            raise ValueError(f"{views[top][0]} frames of view {top} are no multiple of view {level}'s {frames}")
        chunk = min(CHUNK_FRAMES if level == top else LOWER_CHUNK_FRAMES, frames)
        chunks = min(SHARD_CHUNKS, -(-frames // chunk))
        kept = codec if level == top or not codec.lossy else Codec()
        grids[level] = Grid(chunk=chunk, chunks=chunks, size=size, codec=kept, factor=factor)
    return grids


def frame_bounds(frames: int, factors: Sequence[int]) -> dict[int, int]:
    """Frames at most by level, for a StoreWriter: of the highest view at least `frames`, and whole in every view.

    factors: K_T between successive views, lowest first.
    """
    lowest = -(-frames // math.prod(factors))
    return {level + 1: lowest * math.prod(factors[:level]) for level in range(len(factors) + 1)}
