"""What trains in every executor: checks, groups, and one group after the other under its runs' locks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pinikit.data.view_bank import user_bank
from pinikit.study.executors import Job, Planned
from pinikit.study.groups import group_runs, related_runs
from pinikit.study.results import fresh_store, new_results, replace_result, try_locks
from pinikit.study.resume import Interrupted, StopRequest
from pinikit.study.store import Store, StoredResult
from pinikit.study.study import Run, Study

if TYPE_CHECKING:
    from pinikit.components.contracts import Footprint
    from pinikit.study.run import Steps, Workshop


@dataclass(frozen=True)
class Work:
    """What is to be done of a study; travels to worker processes."""

    study: Study
    todo: frozenset[str]
    """Identities of the runs whose results are wanted."""
    fuse: str
    store: Store
    retest: frozenset[str] = frozenset()
    """Those of ``todo`` that are trained already, and only tested on other data."""

    @cached_property
    def runs(self) -> dict[str, Run]:
        """The study's runs by identity; of equal ones the first."""
        return {run.id: run for run in reversed(self.study.runs)}

    @property
    def wanted(self) -> list[Run]:
        """The runs to do, in the study's order."""
        return [run for run in self.study.runs if run.id in self.todo]


class StudyTrainer:
    """Trains groups of a study in this process; see :class:`~pinikit.study.executors.Trainer`.

    Args:
        work: what is to be done.
        say: told of notes worth a line.
        number: which of several workers this is: they take turns with the GPUs. None for no worker.
    """

    def __init__(self, work: Work, say: Callable[[str], None], number: int | None = None) -> None:
        self._work, self._say, self._number = work, say, number
        self._footprints: Mapping[str, Footprint] = {}

    @cached_property
    def _workshop(self) -> Workshop:
        from pinikit.study.run import Workshop

        if self._number is not None:
            take_turns(self._number)
        return Workshop(disk=user_bank(self._say))

    def plan(self) -> Planned:
        """Check the runs to do and those that may share a group with them, and form the groups."""
        from pinikit.study.checks import check_runs

        related = related_runs(self._work.study.runs, self._work.wanted)
        checked = check_runs(self._work.study, related, self._workshop)
        self._footprints = checked.footprints
        related = [run for run in related if run.arm in checked.footprints]
        groups = group_runs(related, self._footprints, self._work.fuse)
        self._expect()
        return Planned(
            tuple(tuple(run.id for run in group) for group in groups),
            {arm: asdict(footprint) for arm, footprint in self._footprints.items()},
            tuple(self._workshop.messages()),
            checked.dropped,
        )

    def warm(self) -> None:
        """Import torch and what stands on it."""
        import pinikit.study.run  # noqa: F401 — imported for its own sake

    def adopt(self, planned: Planned) -> None:
        """Take over what another process has planned."""
        from pinikit.components.contracts import Footprint

        self._footprints = {arm: Footprint(**fields) for arm, fields in planned.footprints.items()}
        self._expect()

    def _expect(self) -> None:
        from pinikit.study.bank_plan import expect

        wanted = [run for run in self._work.wanted if run.arm in self._footprints]
        expect(wanted, self._footprints, self._workshop)

    def train(
        self, job: Job, begin: Callable[[], Steps], stop: StopRequest
    ) -> Mapping[str, StoredResult] | None:
        """Train a group, or test it again, under the locks of the runs that are wanted."""
        store, runs = self._work.store, self._work.runs
        with try_locks(store, [runs[key] for key in job.wanted]) as held:
            if not held:
                return None
            found = new_results(store, job.wanted, job.known)
            rest = [key for key in job.wanted if key not in found]
            return {**found, **(self._execute(job, rest, begin(), stop) if rest else {})}

    def _execute(
        self, job: Job, rest: Sequence[str], steps: Steps, stop: StopRequest
    ) -> dict[str, StoredResult]:
        from pinikit.study.run import execute, retest

        work, group = self._work, [self._work.runs[key] for key in job.group]
        steps = _StoppableSteps(steps, stop)
        if job.retest:
            results = retest([work.runs[key] for key in rest], work.store, self._workshop, steps)
            self._release()
            return results
        replacing = any((old := work.store.load(key)) is not None and old.finished for key in rest)
        results = execute(
            group,
            rest,
            self._footprints[group[0].arm],
            fresh_store(work.store) if replacing else work.store,
            self._workshop,
            steps,
            work.study.name,
            stop,
            job.tries,
        )
        if replacing:  # before they are tested elsewhere, which may be interrupted
            results = {key: replace_result(work.store, result) for key, result in results.items()}
        untested = [work.runs[key] for key, result in results.items() if result.finished and result.untested]
        results |= retest(untested, work.store, self._workshop, steps)
        self._release()
        return results

    def _release(self) -> None:
        """Let go of rows that no run reads now."""
        for bank in self._workshop.banks.values():
            bank.release()


def take_turns(number: int) -> None:
    """Let ``cuda`` mean another device in each worker; runs that name one by its number keep it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


class _StoppableSteps:
    """Passes on how far a group is; between batches of pictures and draws it looks whether to stop.

    Training looks by itself, after each epoch, when it has kept how far it is.
    """

    def __init__(self, steps: Steps, stop: StopRequest) -> None:
        self._steps, self._stop = steps, stop
        self.message, self.training = steps.message, steps.training

    def encoding(self, done: int, total: int) -> None:
        self._steps.encoding(done, total)
        self._look()

    def evaluating(self, done: int, total: int) -> None:
        self._steps.evaluating(done, total)
        self._look()

    def _look(self) -> None:
        if self._stop.is_set():
            raise Interrupted("stopped between two steps")
