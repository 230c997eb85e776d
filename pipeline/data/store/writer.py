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

from pipeline.data.store.codecs import Codec
from pipeline.data.store.shard import Grid, ShardWriter
from pipeline.errors import UserError
from pipeline.paths import write_atomic

CHUNK_FRAMES = 12  # of the highest view; windows of the views below are shorter
LOWER_CHUNK_FRAMES = 6
SHARD_CHUNKS = 20  # along time: an hour is many files

Videos = Shaped[np.ndarray, "videos _ H W 3"] | Sequence[Shaped[np.ndarray, "_ H W 3"]]  # uint8, which `write` checks


class StoreWriter:
    """A store in the making; any number of processes may have one on the same folder, each writing its own shards.

    path: the store's folder. Notes of the shards that are finished, for a restart to skip, lie in <path>.shards: they
        are the caller's to delete once the store has its final name.
    views: (frames at most, size in pixels) by level; the highest view's frames are a multiple of every other's.
        Frames that no video has are cut off at the end.
    videos: the number of rows.
    shard_videos: rows a shard file.
    codec: of the highest view; of all views where it loses nothing.
    url: where the arrays go, a folder in the words of fsspec; None: into `path`.

    Raises UserError where the URL cannot be opened.
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
        self._notes = path.with_name(f"{path.name}.shards")
        path.mkdir(parents=True, exist_ok=True)
        self._options = _options(url)
        self._remote, self._base = _remote(url) if url else (None, "")
        self._arrays: dict[int, zarr.Array[Any]] = {}
        self.grids: dict[int, Grid] = {}
        with _reached(url):
            self._open(views, codec)

    def _open(self, views: Mapping[int, tuple[int, int]], codec: Codec) -> None:
        """The group and its arrays, made or found."""
        if not self._begun():
            shutil.rmtree(self._notes, ignore_errors=True)  # of a store that has been published
        with contextlib.suppress(ContainsGroupError):  # a restart, or another process of this job
            zarr.create_group(self._group, storage_options=self._options)
        top = max(views)
        for level, (frames, size) in sorted(views.items()):
            factor, rest = divmod(views[top][0], frames)
            if rest:
                raise ValueError(f"{views[top][0]} frames of view {top} are no multiple of view {level}'s {frames}")
            chunk = min(CHUNK_FRAMES if level == top else LOWER_CHUNK_FRAMES, frames)
            chunks = min(SHARD_CHUNKS, -(-frames // chunk))
            kept = codec if level == top or not codec.lossy else Codec()
            self.grids[level] = Grid(chunk=chunk, chunks=chunks, size=size, codec=kept)
            self._arrays[level] = self._array(level, frames, factor)

    def _begun(self) -> bool:
        if self._remote is None:
            return (self.path / "zarr.json").is_file()
        return self._remote.exists(f"{self._base}/zarr.json")

    @property
    def _group(self) -> str:
        return self.url or str(self.path)

    def _array(self, level: int, frames: int, factor: int) -> "zarr.Array[Any]":
        grid = self.grids[level]
        frame = (grid.size, grid.size, 3)
        shape = (self.videos, frames, *frame)
        shards = (self.shard_videos, grid.chunk * grid.chunks, *frame)
        try:
            array = zarr.create_array(
                self._group,
                name=f"level-{level}",
                shape=shape,
                dtype="uint8",
                chunks=(1, grid.chunk, *frame),
                shards=shards,
                fill_value=0,
                attributes={"time_factor": factor},
                dimension_names=("video", "frame", "y", "x", "channel"),
                storage_options=self._options,
                **grid.codec.zarr_arguments,
            )
        except ContainsArrayError:
            array = zarr.open_array(self._group, path=f"level-{level}", mode="r+", storage_options=self._options)
        stored = Codec.of_array(array)
        if (
            (array.shape[0], *array.shape[2:]) != (self.videos, *frame)
            or array.shards != shards
            or stored != grid.codec
        ):
            raise ValueError(
                f"{self._group}: level {level} was begun with {array.shape}, shards {array.shards}, {stored}"
            )
        if array.shape[1] != frames:  # `finish` was cut off after it had trimmed
            array.resize(shape)
        return array

    def done(self, first_row: int) -> bool:
        """Whether the shard that begins with this row is written in every view."""
        return self._note(first_row).is_file()

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
            files = writer.finish()
            number = first_row // self.shard_videos
            note = {"longest": writer.longest, "files": {}}
            for file in files:
                key = f"level-{file.level}/c/{number}/{file.number}/0/0/0"
                self._put(file.path, key)
                note["files"][key] = {"sha256": file.sha256, "bytes": file.bytes}
            self._remove_others(number, note["files"])
            write_atomic(self._note(first_row), json.dumps(note))
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
        attributes: further plain values; they belong to the content, so no times and no paths of this machine.
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
        with _reached(self.url):
            self._finish_arrays(index, notes)
        index.to_parquet(self.path / "videos.parquet", index=False)
        attributes = {"kind": kind, "classes": list(classes), **attributes}
        content = hashlib.sha256("".join(f"{key} {facts['sha256']}\n" for key, facts in sorted(files.items())).encode())
        content.update(index.to_csv(index=False).encode())
        content.update(json.dumps(attributes, sort_keys=True).encode())
        digest = content.hexdigest()
        with _reached(self.url):
            group = zarr.open_group(self._group, mode="r+", storage_options=self._options)
            group.attrs.put({**attributes, "digest": digest})
        if self.url is not None:
            manifest = {"url": self.url, "digest": digest, "files": dict(sorted(files.items()))}
            write_atomic(self.path / "store.json", json.dumps(manifest, indent=1))
        return digest

    def _finish_arrays(self, index: pd.DataFrame, notes: Sequence[Mapping[str, Any]]) -> None:
        """Cut off the frames that no video has, and write the numbers of every row."""
        for level, array in self._arrays.items():
            frames = max(1, max(note["longest"][str(level)] for note in notes))
            # Nothing lies behind it: without deletion zarr does not walk through a grid of thousands of absent shards.
            trimmed = array.async_array.resize((self.videos, frames, *array.shape[2:]), delete_outside_chunks=False)
            sync(trimmed)  # in zarr's own loop, to which a remote store's connections belong
        for name, column, missing in (("n_frames", "n_frames", 0), ("labels", "label", -1)):
            values = np.full(self.videos, missing, np.int32)
            values[index["row"].to_numpy(np.int64)] = index[column].to_numpy(np.int32)
            zarr.create_array(
                self._group,
                name=name,
                data=values,
                chunks=(self.videos,),
                compressors=None,
                overwrite=True,
                storage_options=self._options,
            )

    def _note(self, first_row: int) -> Path:
        return self._notes / f"{first_row:08d}.json"

    def _remove_others(self, number: int, files: Mapping[str, Any]) -> None:
        """What an earlier attempt at a shard left where it reached further in time than this one.

        Only now, and nothing else: a store that was published at a URL may be made again, to the same files.
        """
        for level in self.grids:
            place = f"level-{level}/c/{number}"
            if self._remote is None:
                found = [file.relative_to(self.path).as_posix() for file in self.path.glob(f"{place}/*/0/0/0")]
                for key in set(found) - set(files):
                    (self.path / key).unlink()
                continue
            with _reached(self.url):
                found = [f"{place}{file.rpartition(place)[2]}" for file in self._remote.find(f"{self._base}/{place}")]
                for key in sorted(set(found) - set(files)):
                    self._remote.rm_file(f"{self._base}/{key}")

    def _put(self, file: Path, key: str) -> None:
        """A finished file gets its name: by a rename, or as a whole object."""
        if self._remote is None:
            (self.path / key).parent.mkdir(parents=True, exist_ok=True)
            file.replace(self.path / key)
        else:
            with _reached(self.url):
                self._remote.makedirs(f"{self._base}/{key}".rpartition("/")[0], exist_ok=True)
                self._remote.put_file(str(file), f"{self._base}/{key}")
            file.unlink()


def _options(url: str | None) -> dict[str, Any] | None:
    # What fsspec takes for a disk of this machine makes folders only when told to.
    return {"auto_mkdir": True} if url is not None and url.startswith(("file://", "local://")) else None


def _remote(url: str) -> tuple[Any, str]:
    """The file system of a URL and the folder in it."""
    try:
        return fsspec.core.url_to_fs(url, **(_options(url) or {}))
    except (ImportError, ValueError) as error:  # fsspec names the package that is not installed
        raise UserError(f"decode.store: {url} cannot be opened: {error}") from error


@contextlib.contextmanager
def _reached(url: str | None) -> Iterator[None]:
    """OSError for what goes wrong at a URL: every store's library has errors of its own, few of them OSErrors."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        if url is None:
            raise
        raise OSError(f"{type(error).__name__}: {error}") from error


def frame_bounds(frames: int, factors: Sequence[int]) -> dict[int, int]:
    """Frames at most by level, for a StoreWriter: of the highest view at least `frames`, and whole in every view.

    factors: K_T between successive views, lowest first.
    """
    lowest = -(-frames // math.prod(factors))
    return {level + 1: lowest * math.prod(factors[:level]) for level in range(len(factors) + 1)}
