"""The SQLite database that stands in for an MLflow server, made whole."""

from pathlib import Path

from filelock import FileLock


def make_database(uri: str, state: Path) -> None:
    """Make the SQLite database of a URI where it is not there yet, under another name first. Nothing for other URIs.

    MLflow makes its tables step by step, and can neither go on after a kill half way nor when two processes do it at
    once: no run of that database could ever be read again. state: the folder of the lock.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.engine import make_url

    named = make_url(uri).database if uri.startswith("sqlite:") else None
    if not named or named.startswith((":memory:", "file:")):
        return
    database = Path(named)
    if _begun(database):
        return
    state.mkdir(parents=True, exist_ok=True)
    with FileLock(state / "database.lock"):
        if _begun(database):
            return
        new = database.with_name(f"{database.name}-new")
        for left in (new, new.with_name(f"{new.name}-journal")):
            left.unlink(missing_ok=True)
        SqlAlchemyStore(f"sqlite:///{new}", "mlruns").engine.dispose()
        new.replace(database)


def _begun(database: Path) -> bool:
    return database.is_file() and database.stat().st_size > 0  # SQLite opens an empty file as a new database
