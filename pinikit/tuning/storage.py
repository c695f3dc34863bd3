"""Where a search is kept: one of Optuna's storages, opened so that workers may come, go and die.

SQLite's transactions are made to take their lock when they begin: pysqlite reads first and locks later, and
two workers could take the same trial. A database that is away for a moment is waited for.
"""

from __future__ import annotations

import functools
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, OptunaError, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study as OptunaStudy
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError

from pinikit.errors import ConfigError, PinikitError
from pinikit.tuning.request import masked, without_secrets
from pinikit.tuning.results import METRICS
from pinikit.tuning.study import TuneStudy
from pinikit.tuning.tickets import PLACE

DATABASE = "search.db"
"""The SQLite file in the study's folder, where a search is kept that is told no other place."""

PATIENCE = 300.0
"""Seconds for which a database that does not answer is waited for."""

PAUSES = (0.2, 5.0)
"""Seconds from one try to reach it to the next: the first, and the most."""

CONNECT_SECONDS = 10
"""How long opening a connection to a server may take."""

LOCK_SECONDS = 60
"""How long SQLite waits for another process's transaction."""

CLAIM_SECONDS = 10.0
"""How long the process that has just created a search may be silent while it describes it."""

ALLOWED = (
    "allowed: a database's URL such as sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME, "
    "journal:FILE, or a FILE that ends in .log"
)

COMPARED = {
    "space": "space",
    "identity": "base configuration",
    "seeds": "seeds",
    "metrics": "metrics",
    "noise": "noise treatment",
    "data": "pictures (hashes of split manifests by seed)",
    "step": "steps of the pruner (tune.pruner)",
}
"""Attributes of a search that must be equal to go on with it, as a message calls them."""

MOST_DIFFERENCES = 6


class StorageLostError(PinikitError):
    """A storage that was there has not answered for too long."""


Say = Callable[[str], None]


def open_storage(where: str | None, folder: Path, say: Say) -> BaseStorage:
    """Open a storage; what is missing is created.

    Args:
        where: a database's URL, ``journal:FILE`` or a file that ends in ``.log``; None: SQLite in ``folder``.
        folder: the study's folder.
        say: told when a database is waited for.

    Raises:
        ConfigError: it cannot be reached, or ``where`` is none of these.
    """
    if where is None:
        folder.mkdir(parents=True, exist_ok=True)
        where = _sqlite_url(folder / DATABASE)
    path = journal_path(where)
    if path is None and "://" not in where:
        raise ConfigError(f"--storage: found {masked(where)!r}; {ALLOWED}")
    try:
        return _journal(path) if path is not None else _database(where, say)
    except ImportError as error:
        raise ConfigError(f"--storage: {masked(where)}: {_driver_hint(where, error)}") from error
    except (OSError, ValueError, KeyError, RuntimeError, SQLAlchemyError, OptunaError) as error:
        reason = without_secrets(_reason(error), where)
        raise ConfigError(f"--storage: {masked(where)}: cannot be reached ({reason})") from error


def journal_path(where: str) -> Path | None:
    """The file of Optuna's journal that ``where`` means; None if it means a database."""
    if where.startswith("journal:"):
        return Path(where.removeprefix("journal:")).expanduser()
    return Path(where).expanduser() if where.endswith(".log") and "://" not in where else None


def _journal(path: Path) -> BaseStorage:
    name = str(path.absolute())  # the lock is a link to it: a stale one is known by what it points to
    lock = JournalFileOpenLock(name) if os.name == "nt" else None  # links need a privilege there
    return JournalStorage(JournalFileBackend(name, lock_obj=lock))


# --- databases ----------------------------------------------------------------------------------------


def _database(where: str, say: Say) -> BaseStorage:
    """Optuna's storage in a database, as a search needs it.

    Raises:
        ConfigError: it would be in memory.
    """
    url = sqlalchemy.make_url(where)
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    sqlite, server = url.get_backend_name() == "sqlite", url.get_backend_name() in ("postgresql", "mysql")
    if sqlite and url.database in (None, "", ":memory:"):
        raise ConfigError(f"--storage: found {where!r}, which is lost when the process ends; {ALLOWED}")
    connect = {"timeout": LOCK_SECONDS} if sqlite else {"connect_timeout": CONNECT_SECONDS} if server else {}
    text = (
        url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    )  # Optuna formats it
    storage = _created(text, {"connect_args": connect, "pool_pre_ping": True}, say)
    if sqlite:
        _begin_with_the_lock(storage.engine)
    return get_storage(storage)


def _created(url: str, engine: dict[str, Any], say: Say) -> PatientStorage:
    """The storage; tables that another process creates at the same moment are no error."""
    for again in (True, True, False):
        try:
            return PatientStorage(url, say, engine_kwargs=engine)
        except (DBAPIError, StorageInternalError) as error:
            cause = error.__cause__ if isinstance(error, StorageInternalError) else error
            if not again or not (isinstance(cause, IntegrityError) or "already exists" in str(cause)):
                raise
            time.sleep(1.0)
    raise AssertionError("not reached")


class PatientStorage(RDBStorage):  # type: ignore[misc]  # Optuna is not looked into
    """Optuna's storage in a database, which is waited for where it does not answer.

    Args:
        url: of the database.
        say: told when it is waited for.
        options: of Optuna's ``RDBStorage``.

    Raises, from every method that asks the database:
        StorageLostError: it did not answer for :data:`PATIENCE` seconds.
    """

    def __init__(self, url: str, say: Say, **options: Any) -> None:
        self._say = say
        super().__init__(url, **options)


def _patient(ask: Callable[..., Any]) -> Callable[..., Any]:
    """A method that asks again while the database is away."""

    @functools.wraps(ask)
    def wait(self: PatientStorage, *values: Any, **named: Any) -> Any:
        deadline, pause, told = time.monotonic() + PATIENCE, PAUSES[0], False
        while True:
            try:
                return ask(self, *values, **named)
            except (StorageInternalError, SQLAlchemyError) as error:
                if not _is_away(error):
                    raise
                if time.monotonic() > deadline:
                    text = f"The storage does not answer any more ({_reason(error)})."
                    raise StorageLostError(text) from error
                if not told and pause > 1:
                    told = True
                    self._say(f"the storage does not answer, which is waited for ({_reason(error)})")
            time.sleep(pause)
            pause = min(2 * pause, PAUSES[1])

    return wait


_QUERIES = ("_create_new_trial", "_set_trial_param", "_get_trials", "_get_best_trial_id")
"""Methods of ``RDBStorage`` beside those of every storage that Optuna's cache asks."""

for _name in (*BaseStorage.__abstractmethods__, *_QUERIES):
    if hasattr(RDBStorage, _name):  # versions differ in the private ones
        setattr(PatientStorage, _name, _patient(getattr(RDBStorage, _name)))


def _is_away(error: Exception) -> bool:
    """Whether the database cannot be reached now, or is locked, rather than that it refuses something."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, OperationalError | InterfaceError | sqlalchemy.exc.TimeoutError):
        return True
    return isinstance(cause, DBAPIError) and cause.connection_invalidated


def _begin_with_the_lock(engine: sqlalchemy.Engine) -> None:
    """Let every transaction begin with SQLite's lock, and only then read what it decides by."""

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # pysqlite begins none by itself
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections that were opened before


def _sqlite_url(path: Path) -> str:
    return sqlalchemy.URL.create("sqlite", database=str(path.resolve())).render_as_string()


def _driver_hint(where: str, error: Exception) -> str:
    """What to install for a database."""
    name = where.partition("://")[0]
    if name.startswith("postgres"):
        return "needs a driver: pip install 'pinikit[postgres]'"
    return f"needs a driver of {name!r} for SQLAlchemy ({_reason(error)})"


def _reason(error: BaseException) -> str:
    """What went wrong, in a line, without Optuna's and SQLAlchemy's words around it."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    text = str(getattr(cause, "orig", None) or cause)
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(cause).__name__)
    return re.sub(r"\s+", " ", line)


# --- the search in it -----------------------------------------------------------------------------------


def open_search(
    storage: BaseStorage,
    study: TuneStudy,
    facts: Mapping[str, Any],
    begin: Callable[[OptunaStudy], None] = lambda found: None,
) -> OptunaStudy:
    """Optuna's study of a search, created if it is not there yet.

    Args:
        storage: where.
        study: its name is the search's.
        facts: the search's attributes: those of :data:`COMPARED`, ``pinikit``, and what readers look for.
        begin: called with a search that is new, before others can join it.

    Raises:
        ConfigError: there is a search of this name that is another one; says in what.
    """
    facts = json.loads(json.dumps(facts))
    directions = ["maximize" if METRICS[key].higher else "minimize" for key in study.tune.metrics]
    try:
        found = optuna.create_study(storage=storage, study_name=study.name, directions=directions)
    except DuplicatedStudyError:
        found = optuna.load_study(storage=storage, study_name=study.name)
        known = _described(found)
        if "pinikit" in known:
            _check_same(study, known, facts)
            return found
        if not known.keys() <= facts.keys() or _is_foreign(found):
            raise ConfigError(
                f"{study.file}: name: the storage holds a study {study.name!r} that pinikit did not make; "
                "give this one another name (name=...), or another place (--storage)"
            ) from None
        _check_same(study, known, {key: facts[key] for key in known})  # what its creator came to say
    for key, value in facts.items():
        if key != "pinikit":
            found.set_user_attr(key, value)
    begin(found)
    found.set_user_attr("pinikit", facts["pinikit"])  # the last one: now the description is whole
    return found


def _described(found: OptunaStudy) -> Mapping[str, Any]:
    """A study's attributes, waited for while its creator writes them; some are missing if that has died."""
    seen, since = None, time.monotonic()
    while "pinikit" not in (attributes := found.user_attrs) and not _is_foreign(found):
        so_far = (len(attributes), len(found.get_trials(deepcopy=False)))
        if so_far != seen:
            seen, since = so_far, time.monotonic()
        elif time.monotonic() - since > CLAIM_SECONDS:
            break
        time.sleep(0.1)
    return dict(attributes)


def _is_foreign(found: OptunaStudy) -> bool:
    """Whether there are trials that no search of ours has made."""
    return any(PLACE not in trial.user_attrs for trial in found.get_trials(deepcopy=False))


def _check_same(study: TuneStudy, known: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    lines = [
        f"{name}{f' {path}' if path else ''}: {there} there, {here} here"
        for key, name in COMPARED.items()
        for path, there, here in differences(known.get(key), facts.get(key))
    ]
    if not lines:
        return
    more = [f"and {len(lines) - MOST_DIFFERENCES} more differences"] if len(lines) > MOST_DIFFERENCES else []
    shown = "".join(f"\n  {line}" for line in [*lines[:MOST_DIFFERENCES], *more])
    raise ConfigError(
        f"{study.file}: name: the storage holds another search {study.name!r}; give this one another name "
        f"(name=...), or another place (--storage). They differ in{shown}"
    )


def differences(there: Any, here: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Where two JSON values differ: key path, and what stands at it in each."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(there.get(key, ABSENT), here.get(key, ABSENT), inner)
    elif there != here:
        yield path, _text(there), _text(here)


ABSENT = object()


def _text(value: Any) -> str:
    if value is ABSENT:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:79]}…"


def close_storage(storage: BaseStorage) -> None:
    """Close a storage's connections; SQLite then writes its log into its file."""
    storage.remove_session()
    engine = getattr(getattr(storage, "_backend", None), "engine", None)
    if engine is not None:
        engine.dispose()
