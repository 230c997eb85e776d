"""BDD100K's label JSON: weather, scene and time of day of a drive."""

import json
import mmap
import re
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.progress import progress

DRIVE = re.compile("(?<![0-9a-f])[0-9a-f]{8}-[0-9a-f]{8}(?![0-9a-f])", re.IGNORECASE)
SPACE = re.compile(r"[ \t\n\r]*")
NONE = "undefined"  # the annotators' word for no label
READERS = 16  # files read at a time: there may be 100,000, far away

decode_at = json.JSONDecoder().raw_decode


def read_labels(files: list[Path], attribute: str) -> dict[str, str]:
    """The value of an attribute by drive (lower case), for those that have one.

    files: in any of the published forms: an object a drive, `{"name": DRIVE, "attributes": {...}}`; a list of such
    objects for images, named DRIVE.jpg; or Scalabel's `{"frames": [...]}` of them. Others say nothing. Where the
    images of a drive differ, it has the most frequent value, of equally frequent ones the first by name.

    Raises UserError where a file is no JSON.
    """
    votes: dict[str, Counter[str]] = {}
    with ThreadPoolExecutor(READERS) as pool:
        read = pool.map(lambda file: _values(file, attribute), files)
        for values in progress(read, total=len(files), desc="read labels", unit="files"):
            for (drive, value), count in values.items():
                votes.setdefault(drive, Counter())[value] += count
    return {drive: min(counts, key=lambda value: (-counts[value], value)) for drive, counts in votes.items()}


def _values(file: Path, attribute: str) -> Counter[tuple[str, str]]:
    """How often a file says which value of which drive."""
    try:
        with file.open("rb") as content, mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            text = str(mapped, "utf-8-sig")  # from the file's cache: it may have a gigabyte, and memory holds it once
        found = Counter(_value(item, attribute) for item in _objects(text))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: no readable JSON: {error}; mend it or move it out of data.root") from error
    del found["", ""]
    return found


def _value(item: Any, attribute: str) -> tuple[str, str]:
    """Drive and value; two empty texts for what is no label."""
    if not isinstance(item, dict) or not isinstance(item.get("attributes"), dict):
        return "", ""
    drive, value = DRIVE.match(str(item.get("name"))), item["attributes"].get(attribute)
    if drive is None or not isinstance(value, str) or value in ("", NONE):
        return "", ""
    return drive[0].lower(), value


def _objects(text: str) -> Iterator[Any]:
    """The items of a list, or of an object's member `frames`, and then the object itself without it.

    One is parsed at a time: as Python objects, a whole file would take ten times its size. Raises ValueError for what
    is no JSON.
    """
    place = _skip(text, 0)
    if text[place : place + 1] == "[":
        end = yield from _items(text, place)
    elif text[place : place + 1] == "{":
        end = yield from _members(text, place)
    else:
        _, end = decode_at(text, place)
    if _skip(text, end) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _items(text: str, place: int) -> Generator[Any, None, int]:
    """Yield what is in the list that begins at `place`; return where it ends."""
    place = _skip(text, place + 1)
    if text[place : place + 1] == "]":
        return place + 1
    while True:
        item, place = decode_at(text, place)
        yield item
        place, last = _next(text, place, "]")
        if last:
            return place


def _members(text: str, place: int) -> Generator[Any, None, int]:
    """Yield the items of `frames` and then the other members of the object that begins at `place`; return its end."""
    members: dict[str, Any] = {}
    place = _skip(text, place + 1)
    if text[place : place + 1] == "}":
        return place + 1
    while True:
        name, place = decode_at(text, place)
        place = _skip(text, place)
        if not isinstance(name, str) or text[place : place + 1] != ":":
            raise json.JSONDecodeError("Expecting a name and ':'", text, place)
        place = _skip(text, place + 1)
        if name == "frames" and text[place : place + 1] == "[":
            place = yield from _items(text, place)
        else:
            members[name], place = decode_at(text, place)
        place, last = _next(text, place, "}")
        if last:
            yield members
            return place


def _next(text: str, place: int, end: str) -> tuple[int, bool]:
    """Where the next item or member begins, or, with True, where what held them ends."""
    place = _skip(text, place)
    if text[place : place + 1] not in (",", end):
        raise json.JSONDecodeError(f"Expecting ',' or '{end}'", text, place)
    return (place + 1, True) if text[place] == end else (_skip(text, place + 1), False)


def _skip(text: str, place: int) -> int:
    found = SPACE.match(text, place)
    assert found is not None  # it matches nothing, too
    return found.end()
