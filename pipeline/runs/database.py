"""A database that takes the place of an MLflow server: asked before MLflow asks it, and of SQLite made whole."""

from pathlib import Path
from typing import Any

from filelock import FileLock

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_TIMEOUT = {"postgresql": "connect_timeout", "mysql": "connect_timeout", "mssql": "timeout"}  # as the drivers call it
_ANSWER = 10  # seconds that a database may take


def prepare(uri: str, state: Path) -> None:
    """Raise what a database answers that cannot be used now, and make SQLite's where it is not there yet.

    MLflow asks a database that is away ten times over 100 s, and each of our tries would take as long. state: the
    folder of the lock. Nothing is done for other URIs.
    """
    kind = uri.partition(":")[0].partition("+")[0]
    if kind not in _DATABASES:
        return
    from sqlalchemy.engine import create_engine, make_url

    named = make_url(uri).database
    if kind == "sqlite" and named and not named.startswith((":memory:", "file:")):
        _make(Path(named), state)
    timeout: dict[str, Any] = {_TIMEOUT[kind]: _ANSWER} if kind in _TIMEOUT else {}
    engine = create_engine(uri, connect_args=timeout)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA schema_version" if kind == "sqlite" else "SELECT 1")
    finally:
        engine.dispose()


def _make(database: Path, state: Path) -> None:
    """Make a database under another name first.

    MLflow makes its tables step by step, and can neither go on after a kill half way nor when two processes do it at
    once: no run of that database could ever be read again.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if _begun(database):
        return
    state.mkdir(parents=True, exist_ok=True)
    with FileLock(state / "database.lock"):
        if _begun(database):
            return
        new = database.with_name(f"{database.name}-new")
        for left in (new, new.with_name(f"{new.name}-journal")):
            left.unlink(missing_ok=True)
        new.touch()  # says at once where that cannot be done
        SqlAlchemyStore(f"sqlite:///{new}", "mlruns").engine.dispose()
        new.replace(database)


def _begun(database: Path) -> bool:
    return database.is_file() and database.stat().st_size > 0  # SQLite opens an empty file as a new database
