"""What decoding takes does not grow with the length of a video."""

import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from models.config import View
from pipeline.data.decode_pool import Decoding, Shard, decode_shards
from tests.pipeline.data.test_decode import params
from tests.pipeline.data.video.test_video import ENGINES
from tests.pipeline.data.video.test_video_kinds import H264, ffmpeg

MINUTES, SECONDS = 20, 10
SIZE = 64  # pixels of the top view
GROWTH_MB = 30  # what is known of each packet: 10 MB measured


class Peaks:
    """While it lasts, the most memory that a decode worker and an ffmpeg of its ever had, in MB."""

    def __init__(self) -> None:
        self.megabytes: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Peaks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            servers = {process.pid for process in psutil.Process().children()}  # those that workers are forked from
            for process in psutil.Process().children(recursive=True):
                try:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                facts = dict(line.split(":", 1) for line in status.splitlines())
                if process.pid not in servers and "VmHWM" in facts:  # a zombie has none
                    name = "ffmpeg" if "ffmpeg" in facts["Name"] else "worker"
                    peak = int(facts["VmHWM"].split()[0]) / 1024
                    self.megabytes[name] = max(peak, self.megabytes.get(name, 0))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_twenty_minutes_take_little_more_than_ten_seconds(tmp_path, engine):
    """The same packets over and over. Only what is known of each packet grows; the frames would be three times that."""
    source = f"testsrc2=s=96x64:r=25:d={SECONDS}"
    ffmpeg("-f", "lavfi", "-i", source, *H264, str(tmp_path / "short.mp4"))
    again = MINUTES * 60 // SECONDS - 1
    copy = ["-stream_loop", str(again), "-i", str(tmp_path / "short.mp4"), "-c", "copy"]
    ffmpeg(*copy, str(tmp_path / "long.mp4"))
    frames, peaks = {}, {}
    for name in ("short", "long"):
        chosen = params(engine=engine, frame_step=4, timeout=250)
        views = {"1": View(frames=8, size=SIZE // 2), "2": View(frames=16, size=SIZE)}
        decoding = Decoding(replace(chosen, views=views), tmp_path, tmp_path / name, 1)
        with Peaks() as watched:
            decode_shards([Shard(0, (f"{name}.mp4",))], decoding, 1)
        (fact,) = decoding.writer().facts(0)
        frames[name], peaks[name] = fact["n_frames"], watched.megabytes
    assert abs(frames["long"] - MINUTES * 60 * 25 / 4) < 3
    assert frames["long"] * SIZE * SIZE * 3 / 2**20 > 2.9 * GROWTH_MB
    assert peaks["short"].keys() == peaks["long"].keys() == {"worker", *(["ffmpeg"] if engine == "ffmpeg" else [])}
    for process, peak in peaks["long"].items():
        assert peak - peaks["short"][process] < GROWTH_MB, peaks
