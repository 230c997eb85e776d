"""How large a store is."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class StoreSize:
    """Shard files and their bytes by level."""

    files: dict[int, int]
    bytes: dict[int, int]


def finished_size(store: Path) -> StoreSize:
    """The size of a finished store's arrays, in its folder or at the URL of its store.json."""
    if (store / "store.json").is_file():
        listed = json.loads((store / "store.json").read_text())["files"]
        found = [(key, facts["bytes"]) for key, facts in listed.items()]
    else:
        shards = (file for file in store.glob("level-*/c/**/*") if file.is_file())
        found = [(file.relative_to(store).as_posix(), file.stat().st_size) for file in shards]
    files, total = Counter[int](), Counter[int]()
    for key, size in sorted(found):
        level = int(key.partition("/")[0].removeprefix("level-"))
        files[level] += 1
        total[level] += size
    return StoreSize(files=dict(files), bytes=dict(total))
