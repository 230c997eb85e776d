"""Runs as a terminal shows them."""

from pipeline.runs.store import Found


def runs_table(found: list[Found], last: int = 8) -> str:
    """The last reproductions side by side: the parameters that differ, then what each child measured last."""
    parents = [run for run in found if run.parent is None][-last:]
    rows: list[tuple[str, list[str]]] = [
        ("run", [run.id[:8] for run in parents]),
        ("started", [f"{run.start.astimezone():%Y-%m-%d %H:%M}" for run in parents]),
        ("git", [run.tags.get("mlflow.source.git.commit", "")[:8] for run in parents]),
    ]
    for key in dict.fromkeys(key for run in parents for key in run.params):
        values = [run.params.get(key, "") for run in parents]
        if len(set(values)) > 1:
            rows.append((key, values))
    children = [[run for run in found if run.parent == parent.id] for parent in parents]
    for name in dict.fromkeys(run.name for group in children for run in group):
        latest = [next((run for run in reversed(group) if run.name == name), None) for group in children]
        rows.append((name, [run.status if run else "" for run in latest]))
        for key in sorted({key for run in latest if run for key in run.metrics}):
            measured = [f"{run.metrics[key]:.5g}" if run and key in run.metrics else "" for run in latest]
            rows.append((f"  {key}", measured))
    first = max(len(name) for name, _ in rows)
    widths = [max(len(values[column]) for _, values in rows) for column in range(len(parents))]
    return "\n".join(
        f"{name:{first}}  {'  '.join(f'{v:>{w}}' for v, w in zip(values, widths, strict=True))}".rstrip()
        for name, values in rows
    )
