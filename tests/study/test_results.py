"""What is left of replacing results."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from pinikit.study.results import fresh_store, tidy_replaced
from pinikit.study.store import Store

RUN = "0123456789abcdef"


def test_checkpoints_of_replacements_go_at_the_end_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    fresh = fresh_store(store)
    checkpoint = fresh.group_folder([RUN])
    for folder in (checkpoint, fresh.run_folder(RUN)):
        folder.mkdir(parents=True)
    with FileLock(store.lock(RUN).lock_file, thread_local=False):  # another process makes a replacement
        tidy_replaced(store, checkpoints=True)
        assert checkpoint.is_dir()
        assert fresh.run_folder(RUN).is_dir()
    tidy_replaced(store)
    assert checkpoint.is_dir(), "the next call goes on from it"
    assert not fresh.run_folder(RUN).exists()
    tidy_replaced(store, checkpoints=True)
    assert not fresh.folder.exists()
