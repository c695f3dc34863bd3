"""Which job is next: what another process trains comes later, what had bad luck again. Imports no torch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from pinikit.study.executors import MEMORY, Job, Limits, Try
from pinikit.study.results import known_results, new_results, save_failure, save_untested, try_locks
from pinikit.study.store import Store, StoredResult
from pinikit.study.study import Run

POLL_SECONDS = 0.5
"""How often it is looked whether another process has left a run."""


class Agenda:
    """The jobs of a study that are left, and what becomes of those that fail.

    Args:
        jobs: in the order in which they are begun.
        runs: the study's runs by identity.
        store: where results are.
        study: its name, for the record.
        limits: how often a job is tried again, and whether a failure ends everything.
        say: told of tries that failed, and of waiting.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        runs: Mapping[str, Run],
        store: Store,
        study: str,
        limits: Limits,
        say: Callable[[str], None],
    ) -> None:
        self._ready, self._elsewhere = deque(jobs), deque[Job]()
        self._runs, self._store, self._study, self._limits, self._say = runs, store, study, limits, say
        self._looked, self._told = 0.0, False
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._ready or self._elsewhere)

    def next(self) -> Job | None:
        """The next job that can be begun; None if there is none at the moment."""
        if not self._ready:
            self._look_elsewhere()
        return self._ready.popleft() if self._ready else None

    def close(self) -> None:
        """Nothing is begun any more."""
        self._closed = True
        self._ready.clear()
        self._elsewhere.clear()

    def busy(self, job: Job) -> None:
        """Another process trains a run of this job: come back to it, unless nothing is begun any more."""
        if not self._closed:
            self._elsewhere.append(job)

    def done(self, job: Job, results: Mapping[str, StoredResult]) -> dict[str, StoredResult]:
        """The results that stand; runs that lacked memory are tried again if they may."""
        short = {key: item for key, item in results.items() if item.content.get("failure") == MEMORY}
        if short and self._may_try_again(job):
            known = {**job.known, **known_results(self._store, short)}
            reason = next(iter(short.values())).error
            self._again(replace(job, wanted=tuple(short), known=known), Try(MEMORY, reason))
            return self._stand({key: item for key, item in results.items() if key not in short})
        return self._stand(dict(results))

    def lost(self, job: Job, failed: Try) -> dict[str, StoredResult]:
        """A try ended without results: another one follows, or the failure is recorded, and is the result."""
        if self._may_try_again(job):
            self._again(job, failed)
            return {}
        return self._record(job, failed)

    def _may_try_again(self, job: Job) -> bool:
        return len(job.tries) < self._limits.retries and not self._closed

    def _again(self, job: Job, failed: Try) -> None:
        tries = (*job.tries, failed)
        self._ready.append(replace(job, tries=tries))
        count = f"retry {len(tries)} of {self._limits.retries}"
        self._say(f"{self.name(job)}: {failed.reason}; it is tried again ({count})")

    def _record(self, job: Job, failed: Try) -> dict[str, StoredResult]:
        wanted = [self._runs[key] for key in job.wanted]
        with try_locks(self._store, wanted) as held:
            if not held:  # another process has begun it since, and will have a result
                self.busy(job)
                return {}
            found = new_results(self._store, job.wanted, job.known)
            tries, save = (*job.tries, failed), save_untested if job.retest else save_failure
            for run in wanted:
                if run.id not in found:
                    found[run.id] = save(self._store, run, self._study, tries)
        return self._stand(found)

    def _stand(self, results: dict[str, StoredResult]) -> dict[str, StoredResult]:
        if self._limits.fail_fast and not all(item.finished for item in results.values()):
            self.close()
        return results

    def _look_elsewhere(self) -> None:
        """Jobs whose runs no other process trains any more are ready."""
        if not self._elsewhere or time.monotonic() - self._looked < POLL_SECONDS:
            return
        self._looked = time.monotonic()
        for job in tuple(self._elsewhere):
            with try_locks(self._store, [self._runs[key] for key in job.wanted]) as held:
                if held:
                    self._elsewhere.remove(job)
                    self._ready.append(job)
        if not self._ready and not self._told:
            self._told = True
            count = sum(len(job.wanted) for job in self._elsewhere)
            self._say(f"waiting for {count} run{'s' * (count > 1)} that another process trains")

    def name(self, job: Job) -> str:
        """The job for people."""
        first = self._runs[job.wanted[0]]
        rest = len(job.wanted) - 1
        return f"arm {first.arm}, seed {first.seed}" + (f" and {rest} more" if rest else "")
