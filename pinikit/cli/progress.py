"""How a study's progress is shown: two bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from pinikit.api import Reporter
from pinikit.cli.consoles import Shown
from pinikit.errors import listing
from pinikit.reporting.text import duration, plural
from pinikit.study.statistics import headline
from pinikit.study.store import StoredResult
from pinikit.study.study import Run, Study

LINE_SECONDS = 5.0
"""At most one line in this time says how far a run is."""

NARROW = 100
"""Columns below which bars and texts are short."""

COUNT = 18
"""Columns of ``training 100/100``."""


ELSEWHERE = "[by another process] "


class ShownReporter(Shown, Reporter):
    """A reporter that the command line opens and closes, and that remembers how much there was to do."""

    def __init__(self) -> None:
        self.todo: int | None = None

    def study_started(self, study: Study, todo: int, finished: int) -> None:
        """Remember ``todo``."""
        self.todo = todo


class LineReporter(ShownReporter):
    """One plain line when a run starts and ends, and now and then one between."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._write, self._clock = write, clock
        self._numbers: dict[str, str] = {}

    def study_started(self, study: Study, todo: int, finished: int) -> None:
        """One line."""
        super().study_started(study, todo, finished)
        self._write(f"study {study.name}: {plural(todo, 'run')} to do, {finished} finished before")

    def message(self, text: str) -> None:
        """One line."""
        self._write(f"note: {text}")

    def group_started(self, runs: Sequence[Run], index: int, total: int) -> _GroupLines:
        """One line."""
        last = index + len(runs) - 1
        self._numbers |= {run.id: f"[{number}/{total}] " for number, run in enumerate(runs, index)}
        who = f"[{index if last == index else f'{index}-{last}'}/{total}] {_names(runs)}"
        self._write(f"{who}: started")
        return _GroupLines(self, self._write, self._clock, who)

    def run_finished(self, run: Run, result: StoredResult) -> None:
        """One line with accuracy and the run's share of the time, or the error."""
        who = f"{self._numbers.get(run.id, ELSEWHERE)}{run.arm}, seed {run.seed}"
        spent = f" in {duration(result.costs['seconds_total'])}" if result.finished else ""
        self._write(f"{who}: {_outcome(result)}{spent}")


class _GroupLines:
    """Lines on how far a group of runs is, now and then."""

    def __init__(
        self, reporter: Reporter, write: Callable[[str], None], clock: Callable[[], float], who: str
    ) -> None:
        self.message = reporter.message
        self._write, self._clock, self._who = write, clock, who
        self._last = clock()

    def encoding(self, done: int, total: int) -> None:
        """A line if the last one is long ago."""
        self._now_and_then(lambda: f"encoding, {done} of {total} pictures")

    def training(self, epoch: int, epochs: int, **values: float) -> None:
        """A line if the last one is long ago."""
        self._now_and_then(lambda: ", ".join([f"training, epoch {epoch} of {epochs}", *_values(values)]))

    def evaluating(self, done: int, total: int) -> None:
        """A line if the last one is long ago."""
        self._now_and_then(lambda: f"evaluating, draw {done} of {total}")

    def _now_and_then(self, text: Callable[[], str]) -> None:
        if self._clock() - self._last >= LINE_SECONDS:
            self._last = self._clock()
            self._write(f"{self._who}: {text()}")


class BarReporter(ShownReporter):
    """A bar for the study and one for each group of runs under way; they vanish at the end."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._narrow = console.width < NARROW
        name, bar = (18, 10) if self._narrow else (30, 24)
        rest = max(console.width - name - bar - COUNT - 4, 8)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False, table_column=_cell(name)),
            BarColumn(bar_width=bar, table_column=Column(min_width=bar)),
            TextColumn("{task.fields[count]}", markup=False, table_column=_cell(COUNT)),
            _Detail(table_column=_cell(rest)),
            console=console,
            transient=True,
            expand=False,
        )
        self._study = self._bars.add_task("preparing", total=None, count="", detail=lambda: "")
        self._groups: dict[str, _GroupBar] = {}
        """Bars of the groups under way, by each of their runs."""
        self._done, self._begun, self._last = 0, 0.0, ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def close(self) -> None:
        """Take the bars away."""
        self._bars.stop()

    def study_started(self, study: Study, todo: int, finished: int) -> None:
        """Show the study's bar."""
        super().study_started(study, todo, finished)
        self._begun = time.monotonic()
        self._bars.update(self._study, description=study.name, total=todo, detail=self._study_detail)
        self.count()

    def message(self, text: str) -> None:
        """A line above the bars."""
        self._bars.console.print(f"note: {text}", soft_wrap=True)

    def group_started(self, runs: Sequence[Run], index: int, total: int) -> _GroupBar:
        """A bar for the group; one that is tried again takes the place of its first try."""
        for run in runs:
            self._leave(run)
        bar = _GroupBar(self, self._bars, runs, narrow=self._narrow)
        self._groups |= {run.id: bar for run in runs}
        return bar

    def run_finished(self, run: Run, result: StoredResult) -> None:
        """Count it; a failure stays as a line above the bars."""
        self._leave(run)
        self._done += 1
        self._last = f"{run.arm} {_outcome(result, short=True)}"
        if not result.finished or result.untested:
            self._bars.console.print(f"{run.arm}, seed {run.seed}: {_outcome(result)}", soft_wrap=True)
        self.count()

    def _leave(self, run: Run) -> None:
        """The run's group has one less, and no bar without any."""
        bar = self._groups.pop(run.id, None)
        if bar is not None and bar not in self._groups.values():
            bar.remove()

    def count(self) -> None:
        """Bring the study's bar up to date: runs that ended, and the share of those under way."""
        under_way = sum(bar.share for bar in self._groups.values())
        count = f"{self._done}/{self.todo} runs"
        self._bars.update(self._study, completed=self._done + under_way, count=count)

    def _study_detail(self) -> str:
        """Time passed and left, and how the last run ended."""
        passed = time.monotonic() - self._begun
        done = self._bars.tasks[0].completed
        parts = [duration(passed)]
        if done and self.todo and passed > 1:
            parts.append(f"{duration(passed * (self.todo - done) / done)} left")
        return ", ".join([*parts, self._last] if self._last else parts)


class _GroupBar:
    """The bar of a group of runs."""

    def __init__(self, reporter: BarReporter, bars: Progress, runs: Sequence[Run], *, narrow: bool) -> None:
        self.message = reporter.message
        self.share = 0.0
        """How much of each of its runs is done, by epochs."""
        self._reporter, self._bars, self._narrow = reporter, bars, narrow
        self._task = bars.add_task(_names(runs), total=None, count="", detail=lambda: "starting")
        self._phase, self._first, self._since = "", 0, 0.0

    def remove(self) -> None:
        """Take it away."""
        self._bars.remove_task(self._task)

    def encoding(self, done: int, total: int) -> None:
        """Pictures, with their rate."""
        self._step("encoding", done, total, "pictures/s")

    def training(self, epoch: int, epochs: int, **values: float) -> None:
        """Epochs, with their rate, the loss and the training accuracy."""
        self._step("training", epoch, epochs, "epochs/s", *_values(values))
        self.share = epoch / (epochs + 1)
        self._reporter.count()

    def evaluating(self, done: int, total: int) -> None:
        """Draws, with their rate."""
        self._step("evaluating", done, total, "draws/s")

    def _step(self, phase: str, done: int, total: int, unit: str, *values: str) -> None:
        now = time.monotonic()
        if phase != self._phase or done < self._first:
            self._phase, self._first, self._since = phase, done, now
        passed = now - self._since
        rate = []
        if done > self._first and passed > 0:
            rate = [_number((done - self._first) / passed) + ("/s" if self._narrow else f" {unit}")]
        text = ", ".join([*rate, *values])
        self._bars.update(
            self._task, total=total, completed=done, count=f"{phase} {done}/{total}", detail=lambda: text
        )


class _Detail(ProgressColumn):
    """What the task's ``detail`` says at the moment."""

    max_refresh = None

    def render(self, task: Task) -> Text:
        return Text(str(task.fields["detail"]()))


def _names(runs: Sequence[Run]) -> str:
    """``arm, seed 1`` or ``arm, seeds 1, 2, 3``; several arms one behind the other."""
    arms = {
        arm: [str(run.seed) for run in runs if run.arm == arm] for arm in dict.fromkeys(r.arm for r in runs)
    }
    return "; ".join(f"{arm}, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}" for arm, seeds in arms.items())


def _cell(width: int) -> Column:
    return Column(no_wrap=True, overflow="ellipsis", width=width)


def _values(values: dict[str, Any]) -> list[str]:
    """Loss and training accuracy in words."""
    words = []
    for name, value in values.items():
        words.append(f"train {value:.0f} %" if name == "accuracy" else f"{name} {value:.3f}")
    return words


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _outcome(result: StoredResult, *, short: bool = False) -> str:
    if not result.finished:
        return "failed" if short else f"failed: {' '.join(result.error.split())}"
    accuracy = f"{headline(result):.2f} %"
    if short or not result.untested:
        return accuracy
    return f"{accuracy}, not tested on {listing(result.untested)}"
