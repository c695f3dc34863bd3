"""One group after the other, in this process."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from pinikit.study.executors import Job, Limits, Planned, Trainer, Watch
from pinikit.study.executors.agenda import POLL_SECONDS, Agenda
from pinikit.study.executors.trainer import Work
from pinikit.study.resume import Interrupted, StopRequest
from pinikit.study.store import StoredResult


class InProcess:
    """Trains in this process, which a crash would end; see :class:`~pinikit.study.executors.Executor`."""

    def __init__(self, work: Work, trainer: Trainer, limits: Limits, watch: Watch, stop: StopRequest) -> None:
        self._work, self._trainer, self._limits = work, trainer, limits
        self._watch, self._stop = watch, stop

    def plan(self) -> Planned:
        """Check everything that can be checked before training."""
        return self._trainer.plan()

    def close(self) -> None:
        """Nothing is left open."""

    def map(self, jobs: Iterable[Job]) -> Iterator[Mapping[str, StoredResult]]:
        """Train all jobs, one by one."""
        work, stop = self._work, self._stop
        agenda = Agenda(jobs, work.runs, work.store, work.study.name, self._limits, self._watch.message)
        while agenda:
            job = agenda.next()
            if stop.is_set():
                raise Interrupted("stopped between two groups")
            if job is None:
                time.sleep(POLL_SECONDS)
            elif (results := self._train(job)) is None:
                agenda.busy(job)
            else:
                yield agenda.done(job, results)

    def _train(self, job: Job) -> Mapping[str, StoredResult] | None:
        runs = [self._work.runs[key] for key in job.wanted]
        return self._trainer.train(job, lambda: self._watch.began(runs), self._stop)
