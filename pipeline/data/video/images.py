"""A folder of numbered images as a video: frame 1, 2, 3, … in the order of their numbers."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.video.errors import Unreachable, VideoError

# What stands before the number, the number, and the suffix.
IMAGE = re.compile(r"(|.*[^0-9])([0-9]+)(\.(?:png|jpe?g|webp))", re.ASCII | re.IGNORECASE | re.DOTALL)
LARGEST = 2**31 - 1  # number that ffmpeg knows


@dataclass(frozen=True)
class Images:
    """The images of a folder, in order, as ffmpeg's demuxer image2 finds them: by a pattern, from the first number."""

    names: tuple[str, ...]
    pattern: str
    first: int
    rate: float  # frames a second

    @classmethod
    def of(cls, folder: Path, rate: float) -> "Images":
        """Raises VideoError with the reason where one is missing, empty or leads nowhere, or where they are of several
        series."""
        files = {entry.name: entry for entry in os.scandir(folder) if not entry.name.startswith(".")}
        found = [match for match in map(IMAGE.fullmatch, files) if match]
        if not found:
            raise VideoError("no image in the folder")
        found.sort(key=lambda match: (int(match[2]), match.string))
        before, digits, suffix = found[0].groups()
        for number, match in enumerate(found, int(digits)):
            if match.string != (expected := f"{before}{number:0{len(digits)}d}{suffix}"):
                raise VideoError(
                    f"no image {expected}, but {match.string}: one is missing, or there are several series"
                )
            try:
                size = files[match.string].stat().st_size
            except OSError as error:
                raise Unreachable(f"{match.string}: cannot be opened: {str(error.strerror).lower()}") from error
            if not size:
                raise VideoError(f"{match.string}: 0 bytes")
            if number > LARGEST:
                raise VideoError(f"{match.string}: a number above {LARGEST}")
        plain = f"{folder.absolute()}/{before}".replace("%", "%%")
        names = tuple(match.string for match in found)
        return cls(names, f"{plain}%0{len(digits)}d{suffix}", int(digits), rate)
