"""How the groups of a study are trained: in this process, or in worker processes. Imports no torch.

An executor plans (checks everything and forms the groups) and then maps jobs to results. What trains is a
:class:`Trainer`, the same in both. A worker that crashes, runs out of memory or time is the failure of
the runs that it trained, not of the study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pinikit.study.store import StoredResult
from pinikit.study.study import Run

if TYPE_CHECKING:
    from pinikit.study.resume import StopRequest
    from pinikit.study.run import Steps

ERROR = "error"
"""A failure of the run's own, which another try would have, too."""

MEMORY, CRASH, TIME = "memory", "crash", "time"
"""Failures that another try may not have."""


@dataclass(frozen=True)
class Try:
    """A try that ended without results: ``memory``, ``crash`` or ``time``, and what is known of it."""

    failure: str
    reason: str


@dataclass(frozen=True)
class Job:
    """A group to be trained whole, by the identities of its runs."""

    group: tuple[str, ...]
    wanted: tuple[str, ...]
    """Those whose results are wanted."""
    known: Mapping[str, str] = field(default_factory=dict)
    """Checksums of results that were there before: other ones are new, and not made again."""
    tries: tuple[Try, ...] = ()
    """What went wrong so far."""
    retest: bool = False
    """Nothing is trained: finished runs are tested on other data that they were not tested on."""


@dataclass(frozen=True)
class Planned:
    """What checking the runs to do gave; plain values, which a process can hand to another."""

    groups: tuple[tuple[str, ...], ...]
    """Identities of runs that are trained together, in the study's order."""
    footprints: Mapping[str, Mapping[str, Any]]
    """Fields of each arm's ``Footprint``."""
    messages: tuple[str, ...]
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Arms that cannot be built and that the study leaves out, with the reason."""


@dataclass(frozen=True)
class Limits:
    """What executors do about trouble."""

    retries: int = 1
    """Further tries after a crash, lack of memory or a try that took too long."""
    time_limit: float | None = None
    """Seconds that a try may take for each run of its group."""
    fail_fast: bool = False
    """After the first failed run nothing new starts."""


class Watch(Protocol):
    """Told what happens; shows it."""

    def began(self, runs: Sequence[Run]) -> Steps:
        """These results are now worked on; what is returned is told how far."""

    def message(self, text: str) -> None:
        """A note worth a line."""


class Trainer(Protocol):
    """Checks runs, forms their groups and trains them; what it needs, such as torch, it imports late."""

    def plan(self) -> Planned:
        """Check all runs to do.

        Raises:
            PinikitError: all that is wrong, at once.
        """

    def warm(self) -> None:
        """Import what takes long, while another process plans."""

    def adopt(self, planned: Planned) -> None:
        """Take over what another process has planned."""

    def train(
        self, job: Job, begin: Callable[[], Steps], stop: StopRequest
    ) -> Mapping[str, StoredResult] | None:
        """Train a group, or test it again, and store the results that are wanted.

        Args:
            job: the group.
            begin: called when the training really begins.
            stop: ends it at the next good occasion.

        Returns:
            The results by identity, failed ones too; None if another process trains one of the runs.

        Raises:
            PinikitError: the disk refuses.
            Interrupted: ``stop`` was requested.
        """


class Executor(Protocol):
    """Where the training happens."""

    def plan(self) -> Planned:
        """Check everything that can be checked before training.

        Raises:
            PinikitError: all that is wrong, at once.
        """

    def map(self, jobs: Iterable[Job]) -> Iterator[Mapping[str, StoredResult]]:
        """Train all jobs; yields results by identity as they come, in any order.

        Raises:
            PinikitError: the disk refuses.
            Interrupted: a stop was requested, and everything has stopped.
        """

    def close(self) -> None:
        """End whatever still works."""
