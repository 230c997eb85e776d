"""Video files to the pyramid: one shard of videos a task, and a bad file costs nothing but itself."""

import hashlib
import logging
import shutil
from pathlib import Path

import av
import imageio_ffmpeg
import numcodecs
import pandas as pd
import PIL
import torch

from pipeline.code_hash import code_hash
from pipeline.data.decode_pool import FAILED, KEPT, SHORT, STOPPED, Decoding, Shard, decode_shards, made_with
from pipeline.data.layouts.datasets import index_videos
from pipeline.data.layouts.index import Index, label_names
from pipeline.data.layouts.listing import data_root, made_here, not_to_keep_in, read_listing
from pipeline.data.layouts.walk import files_below, video_of
from pipeline.data.outcome import log_lines
from pipeline.data.video import ffmpeg
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.paths import Made, Paths, alone, lies_in, publish, write_atomic
from pipeline.system.values import fingerprint
from pipeline.workers import ALONE, Workers

log = logging.getLogger(__name__)

TABLE = ["row", "path", "split", "label", "class", "n_frames", "fps", "width", "height", "seconds", "codec", "notes"]


def decode(params: Params, paths: Paths, processes: int, nodes: Workers = ALONE) -> None:
    """Write the pyramid of every listed video to `paths.pyramid`, in so many processes on each of the nodes.

    Begins where an earlier run on the same listing and parameters stopped. Beside the arrays lie failed.csv and
    short.csv (path, split, class, reason), missing.csv (annotated, no file) and unlisted.csv (no annotation); what
    they amount to is logged. Nodes share the project's folder; node 0 brings together what all of them decoded.

    Raises UserError where the listing is not that of the files, where there are more classes than data.classes allows,
    where decode.store would be replaced and where the share of undecodable videos is above decode.max_failed.
    """
    scheme, _, place = (params.decode.store or "").partition("://")
    if scheme in ("file", "local") and lies_in(Path(place), not_to_keep_in(params, paths)):
        raise UserError(f"decode.store: {place} is in a folder that the pipeline or git makes anew; name one elsewhere")
    listing, root = read_listing(paths.root / params.data.listing), data_root(params, paths)
    index = index_videos(params.data, listing, root)
    classes = label_names(index, params.data.classes)
    _check_files(index, listing, params, paths)

    inputs = _inputs(params, index, listing)
    work = paths.work("decode", inputs, paths.pyramid)
    code = code_hash("stages.decode", without=("pipeline.data.outcome",))  # which words the log alone
    tables = [table.to_csv(index=False) for table in (index.videos, index.missing, index.unlisted)]
    made = Made.of(paths, paths.pyramid, fingerprint(inputs, tables, classes, params.decode, code))
    local = params.decode.store is None  # elsewhere frames may be gone without our knowledge
    first = nodes.rank == 0
    with alone(work, nodes.rank):
        if nodes.any(first and local and made.restore()):
            log.info("%s is as this code made it of these files; without %s it is made anew", made.out, made.folder)
            if first:
                shutil.rmtree(work)
            return
        decoding = Decoding(params, root, work, len(index.videos))
        if first:
            if params.decode.engine == "ffmpeg":
                ffmpeg.version()  # raises where there is none
            decoding.writer()  # makes the arrays, which the other nodes and the workers open
        nodes.wait()
        videos, step = list(index.videos["path"]), params.decode.shard_videos
        shards = [Shard(row, tuple(videos[row : row + step])) for row in range(0, len(videos), step)]
        decode_shards(shards[nodes.rank :: nodes.count], decoding, processes)
        if nodes.count > 1:
            log.info("node %d of %d has decoded its part", nodes.rank, nodes.count)
        nodes.wait()
        if first:
            finished = _finish(decoding, index, classes)
            if local:
                made.keep(finished)
            publish(finished, paths.pyramid)
            shutil.rmtree(work)
            for line in log_lines(paths.pyramid, params):
                log.info("%s", line)
            log.info("more of it: `hvg summary` makes a page")


def _finish(decoding: Decoding, index: Index, classes: tuple[str, ...]) -> Path:
    """Bring together what all nodes decoded. Returns the store's folder."""
    params, work, writer = decoding.params, decoding.work, decoding.writer()
    facts = [fact for row in range(0, decoding.videos, params.decode.shard_videos) for fact in writer.facts(row)]
    table = index.videos.assign(row=range(decoding.videos)).merge(pd.DataFrame(facts), on="row", validate="1:1")
    numbers = {name: number for number, name in enumerate(classes)}
    table["label"] = [numbers.get(name, -1) for name in table["class"]]
    out = {"failed": table["status"].isin((FAILED, STOPPED)), "short": table["status"] == SHORT}
    left_out = {name: table.loc[chosen, ["path", "split", "class", "reason"]] for name, chosen in out.items()}
    _write_tables(work, **left_out)
    try:
        _check_left(table, left_out["failed"], params, work)
    except UserError:
        for row in table.loc[table["status"] == STOPPED, "row"]:  # once more at the next run: a machine may be busy
            writer.forget(row - row % writer.shard_videos)
        raise

    decoded = table.loc[table["status"] == KEPT, TABLE].reset_index(drop=True)
    decoded = decoded.astype({"width": "int64", "height": "int64"})  # floats where a failed video had none
    writer.finish(decoded, kind="pyramid", classes=classes, **made_with(params))
    _write_tables(writer.path, **left_out, missing=index.missing, unlisted=index.unlisted)
    return writer.path


def _inputs(params: Params, index: Index, listing: pd.DataFrame) -> str:
    """What the shards depend on: values, files in their order, and the code and libraries that make frames of them."""
    code = code_hash("pipeline.data.decode_pool")
    files = _files(index, listing).to_csv(index=False)
    made_by = [
        av.library_versions,
        imageio_ffmpeg.__version__,
        torch.__version__,
        numcodecs.__version__,
        PIL.__version__,
    ]
    place = params.decode.store
    return fingerprint(made_by, made_with(params), place, hashlib.sha256(files.encode()).hexdigest(), code)


def _files(index: Index, listing: pd.DataFrame) -> pd.DataFrame:
    """The rows of the listing that belong to the videos, in their order."""
    return listing.loc[listing["path"].map(video_of).isin(index.videos["path"])]


def _check_files(index: Index, listing: pd.DataFrame, params: Params, paths: Paths) -> None:
    """Whether the files are those of the listing, by their sizes: times change with every copy."""
    files, root = _files(index, listing), data_root(params, paths)
    sizes = dict(zip(files["path"], files["size"], strict=True))
    now = {path: size for path, size, _ in files_below(root, sizes.__contains__, made_here(params, paths))}
    changed = [path for path, size in sizes.items() if now.get(path) != size]
    if changed:
        raise UserError(
            f"data.listing: {len(changed)} of {len(sizes)} files under {root} are gone or have another size, "
            f"the first {changed[0]}; `hvg index` lists them anew"
        )


def _check_left(table: pd.DataFrame, failed: pd.DataFrame, params: Params, work: Path) -> None:
    videos, limit = len(table), params.decode.max_failed
    if len(failed) / videos > limit or len(failed) == videos:
        some = "; ".join(
            f"{path}: {reason}" for path, reason in zip(failed["path"][:3], failed["reason"], strict=False)
        )
        raise UserError(
            f"{len(failed)} of {videos} videos could not be decoded, decode.max_failed allows {limit:.0%}: {some}"
            f"{' …' if len(failed) > 3 else ''} (all of them: {work / 'failed.csv'})"
        )
    if KEPT not in set(table["status"]):
        raise UserError(
            f"decode.min_frames: every video has fewer than {params.decode.min_frames} frames of the top view "
            f"(all of them: {work / 'short.csv'})"
        )


def _write_tables(folder: Path, **tables: pd.DataFrame) -> None:
    for name, table in tables.items():
        write_atomic(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
