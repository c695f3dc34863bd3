"""Writing what a search found: ``tuning.json``, the page, and the study of its best arms."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

from pinikit.data.files import write_atomic
from pinikit.errors import DataError
from pinikit.study.results import writing_study
from pinikit.study.store import Store
from pinikit.tuning.best import BEST, best_study
from pinikit.tuning.confirm import answer, confirmation
from pinikit.tuning.results import RESULT, TuneResult, best_name, load_result

PAGE = "tuning.html"

PAGE_LAYOUT = 2
"""Raised when the page shows the same results otherwise."""


def publish(result: TuneResult, store: Store) -> None:
    """Write a search's files into its folder: ``tuning.json``, ``best.yaml`` and ``tuning.html``.

    Without any arm to measure again there is no ``best.yaml``. Runs of one that is still the same are shown
    in the page.

    Raises:
        PinikitError: a file cannot be written.
    """
    folder = store.study_folder(result.name)
    with writing_study(store, result.name):
        result.save(folder)
        if result.best():
            write_atomic(folder / BEST, best_study(result))
        else:
            (folder / BEST).unlink(missing_ok=True)
        _write_page(result, store)


def refresh(store: Store, study: str) -> str | None:
    """Bring the page of a search up to date when the study of its best arms was run.

    Args:
        store: where both are.
        study: the name of the study that was run.

    Returns:
        The answer to the search as plain text; None if the study is none that a search wrote.

    Raises:
        PinikitError: the page cannot be written.
    """
    folder = _search_of(store, study)
    if folder is None:
        return None
    try:
        result = load_result(folder)
    except DataError as error:
        return f"the search's page was not brought up to date: {error}"
    with writing_study(store, result.name):
        return _write_page(result, store).replace("`", "")


def _search_of(store: Store, study: str) -> Path | None:
    """The folder of the search whose best arms a study measures again."""
    folders = (store.folder / "studies").glob(f"*/{RESULT}") if study.endswith("_best") else ()
    return next((path.parent for path in folders if best_name(path.parent.name) == study), None)


def _write_page(result: TuneResult, store: Store) -> str:
    """Write the page, unless it shows the same already; yields the answer."""
    from pinikit.reporting import has_digest
    from pinikit.reporting.html.tuning import tuning_page

    found, command = confirmation(result, store), confirm_command(result, store)
    path, content = store.study_folder(result.name) / PAGE, (PAGE_LAYOUT, result, found, command)
    digest = hashlib.sha256(repr(content).encode()).hexdigest()
    if not has_digest(path, digest):
        write_atomic(path, tuning_page(result, found, command, digest))
    if isinstance(found, str):
        return f"the runs of {result.best_name} are not shown in the search's page: {found}"
    return answer(result, found)


def confirm_command(result: TuneResult, store: Store) -> str:
    """The command that measures the best arms again."""
    words = ["pinikit", "run", str(store.study_folder(result.name) / BEST)]
    words += ["--runs", str(store.folder)] if store.folder != Path("runs") else []
    return shlex.join(words)
