"""What the packets of a video stream say of themselves: their times, and how many there are."""

import statistics
from fractions import Fraction
from itertools import pairwise

from av.packet import Packet

# Of a stream's packets, that say a time. In MPEG-PS the first of those that begin in 2 KB does; elsewhere all do, or,
# where each frame is two fields, half of them.
ENOUGH, HALF = Fraction(9, 10), Fraction(1, 2)


class Packets:
    """What the packets of a stream say of themselves."""

    def __init__(self, container: str) -> None:
        """container: libav's name of its format."""
        self._enough = ENOUGH if container == "mpeg" else HALF
        self.encrypted = False
        self.back = 0  # units by which the times of decoding went back, at most
        self.last = (-(2**63), 0)  # time and length of the latest
        self._stamps: list[int | None] = []
        self._pts = True  # whether each has one
        self._places: dict[int, int] = {}  # of the last packet that says it, by time of decoding
        self._dts: int | None = None

    def add(self, packet: Packet) -> None:
        if packet.has_sidedata("encryption_info"):
            self.encrypted = True
        if packet.is_discard or not packet.size:  # behind an edit list's end; the stream's
            return
        if packet.dts is not None:
            self.back = max(self.back, 0 if self._dts is None else self._dts - packet.dts)
            self._dts = packet.dts
            self._places[packet.dts] = len(self)
        self._pts = self._pts and packet.pts is not None
        stamp = packet.dts if packet.pts is None else packet.pts
        self._stamps.append(stamp)
        if stamp is not None:
            self.last = max(self.last, (stamp, packet.duration or 0))

    def __len__(self) -> int:
        return len(self._stamps)

    @property
    def moments(self) -> list[int]:
        return sorted({stamp for stamp in self._stamps if stamp is not None})

    @property
    def few(self) -> bool:
        """Whether so few say a time that what lies between two of these is no frame's length."""
        return 0 < sum(stamp is not None for stamp in self._stamps) < self._enough * len(self)

    @property
    def step(self) -> Fraction | None:
        """Units from a packet to the next, as most of those say that have a time of decoding."""
        marks = pairwise(self._places.items())
        steps = [Fraction(later - dts, end - place) for (dts, place), (later, end) in marks if later > dts]
        return statistics.median_low(steps) if steps else None

    @property
    def complete(self) -> bool:
        """Whether every packet says a time of its own."""
        return self._pts and len(self._stamps) == len(set(self._stamps))
