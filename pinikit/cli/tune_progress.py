"""How a search's progress is shown: a live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from pinikit.cli.consoles import Shown
from pinikit.config.text import value_text
from pinikit.reporting.text import duration, number, plural
from pinikit.tuning.importance import importances
from pinikit.tuning.reporting import TuneReporter
from pinikit.tuning.results import (
    BASE,
    COMPLETE,
    FAILED,
    METRICS,
    PRUNED,
    Metric,
    TrialRow,
    distributions_of,
    trial_row,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from pinikit.tuning.study import TuneStudy

EVERY = 20
"""Finished trials from one look at the importances to the next."""

LEADING = 3
"""Parameters that are named as the ones that matter most."""

CHANGES = 4
"""Parameters of the best trial that are named."""


class QuietSearch(Shown, TuneReporter):
    """Shows nothing, but knows how far the search is; opened and closed by the command line."""

    def __init__(self) -> None:
        self.total, self.over, self.before = 0, 0, 0
        self.running: set[int] = set()
        self.rows: list[TrialRow] = []
        self.metric: Metric = METRICS["accuracy"]
        self.step, self.seeds = "epoch", 0
        self.best: TrialRow | None = None
        self.matters: str = ""
        self._trials: list[FrozenTrial] = []
        self._told: set[str] = set()
        """What was said of trials that failed: by those who saw it, and by the storage."""
        self._begun = 0.0

    @property
    def nothing_to_do(self) -> bool:
        """Whether all trials were over before."""
        return self.total > 0 and self.before >= self.total

    def started(self, study: TuneStudy, total: int, done: int, earlier: Sequence[FrozenTrial] = ()) -> None:
        """Take note of what there is."""
        self.total, self.over, self.before = total, done, done
        self.metric = METRICS[study.tune.metrics[0]]
        self.step, self.seeds = study.step, len(study.seeds)
        self._begun = time.monotonic()
        for trial in earlier:
            self._note(trial)
        if earlier:
            self._weigh()

    def trial_started(self, number: int) -> None:
        """Count it."""
        self.running.add(number)

    def trial_finished(self, trial: FrozenTrial) -> None:
        """Count it, and weigh the parameters now and then."""
        from pinikit.tuning.tickets import is_final

        self.running.discard(trial.number)
        self.over += is_final(trial)
        self._note(trial)
        if (self.over - self.before) % EVERY == 0:
            self._weigh()

    def count(self, state: str) -> int:
        """Trials in a state."""
        return sum(row.state == state for row in self.rows)

    @property
    def base(self) -> TrialRow | None:
        """The base configuration's trial, once it is complete."""
        return next((row for row in self.rows if row.label == BASE and row.values), None)

    @property
    def remaining(self) -> float:
        """Seconds that the rest will take at the rate so far; NaN before the first trial is over."""
        new = self.over - self.before
        passed = time.monotonic() - self._begun
        return passed * (self.total - self.over) / new if new else math.nan

    @property
    def passed(self) -> float:
        """Seconds since the search began."""
        return time.monotonic() - self._begun

    def value(self, row: TrialRow) -> str:
        """The trial's first metric with its unit."""
        return f"{number(row.values[0], self.metric.digits)} {self.metric.unit}"

    def best_text(self) -> str:
        """The best trial so far beside ``base``, and where its parameters are others."""
        if self.best is None:
            return ""
        base = self.base
        text = f"{self.value(self.best)} in trial {self.best.number}"
        if base is None:
            return text
        if base is self.best:
            return f"{text} ({BASE})"
        text += f" ({BASE} {self.value(base)})"
        other = [
            f"{name}={value_text(value)}"
            for name, value in self.best.params.items()
            if base.params.get(name) != value
        ]
        more = f", {len(other) - CHANGES} more" if len(other) > CHANGES else ""
        return f"{text}: {', '.join(other[:CHANGES])}{more}" if other else text

    def is_news(self, text: str) -> bool:
        """Whether this was not told before; what is asked for counts as told."""
        known = text in self._told
        self._told.add(text)
        return not known

    def _note(self, trial: FrozenTrial) -> None:
        row = trial_row(trial)
        self.rows.append(row)
        self._trials.append(trial)
        if row.values and (self.best is None or self._value(row) > self._value(self.best)):
            self.best = row

    def _value(self, row: TrialRow) -> float:
        return self.metric.sign * row.values[0]

    def _weigh(self) -> None:
        """Which parameters matter, as far as can be said."""
        found = importances(self.rows, distributions_of(self._trials), 0, self.metric, forest=False)
        self.matters = ", ".join(
            f"{item.parameter} {100 * item.ped_anova:.0f} %" for item in found[:LEADING] if item.ped_anova > 0
        )


class SearchLines(QuietSearch):
    """One plain line when a trial is over."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def started(self, study: TuneStudy, total: int, done: int, earlier: Sequence[FrozenTrial] = ()) -> None:
        """One line."""
        super().started(study, total, done, earlier)
        self._write(f"search {study.name}: {plural(total, 'trial')} in all, {done} over before")

    def message(self, text: str) -> None:
        """One line, unless it is known from a trial's."""
        if self.is_news(text):
            self._write(f"note: {text}")

    def trial_finished(self, trial: FrozenTrial) -> None:
        """One line with the value, the best so far and the time left; now and then one on what matters."""
        known, best = self.matters, self.best
        super().trial_finished(trial)
        row = self.rows[-1]
        if row.state == FAILED:
            self.is_news(_reason(row))
        name = f"trial {row.number}" + (f" ({row.label})" if row.label else "")
        parts = [f"[{self.over}/{self.total}] {name}: {_outcome(self, row)}"]
        if row.values and self.best is not None:
            parts.append("the best so far" if self.best is not best else f"best {self.value(self.best)}")
        if self.over < self.total and not math.isnan(self.remaining):
            parts.append(f"{duration(self.remaining)} left")
        self._write(", ".join(parts))
        if self.matters != known:
            self._write(f"matters most so far: {self.matters}")


class SearchBars(QuietSearch):
    """A bar, the best trial, counts and what matters; it vanishes at the end."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            console=console,
        )
        self._task = self._bar.add_task("preparing", total=None, count="")
        self._live = Live(console=console, get_renderable=self._view, transient=True, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def close(self) -> None:
        """Take the view away."""
        self._live.stop()

    def started(self, study: TuneStudy, total: int, done: int, earlier: Sequence[FrozenTrial] = ()) -> None:
        """Show the bar."""
        super().started(study, total, done, earlier)
        self._bar.update(self._task, description=study.name, total=total, completed=done)

    def message(self, text: str) -> None:
        """A line above the view."""
        if self.is_news(text):
            self._live.console.print(f"note: {text}", soft_wrap=True)

    def trial_finished(self, trial: FrozenTrial) -> None:
        """Count it; a failure stays as a line above the view."""
        super().trial_finished(trial)
        row = self.rows[-1]
        if row.state == FAILED and self.is_news(_reason(row)):
            self._live.console.print(f"trial {row.number}: {_outcome(self, row)}", soft_wrap=True)
        self._bar.update(self._task, completed=self.over)

    def _view(self) -> Group:
        """The bar, and below it what is known so far."""
        if not self.total:
            return Group(self._bar)
        times = [duration(self.passed)]
        if self.over > self.before:
            rate = 60 * (self.over - self.before) / max(self.passed, 1e-9)
            times += [f"{duration(self.remaining)} left", f"{rate:.3g} trials/min"]
        count = f"{self.over}/{self.total} trials, {', '.join(times)}"
        self._bar.update(self._task, count=count)
        states = [
            f"running {len(self.running)}",
            *(f"{state} {self.count(state)}" for state in (COMPLETE, PRUNED, FAILED)),
        ]
        lines = [("best", self.best_text()), ("trials", ", ".join(states)), ("matters most", self.matters)]
        texts = [Text(f"  {name}: {text}", overflow="ellipsis", no_wrap=True) for name, text in lines if text]
        return Group(self._bar, *texts)


def _outcome(view: QuietSearch, row: TrialRow) -> str:
    """How a trial ended."""
    if row.values:
        return view.value(row) + (f" (the same as trial {row.same_as})" if row.same_as is not None else "")
    if row.state == PRUNED:
        last = max(row.steps, default=None)
        if last is None:
            return "pruned"
        if view.step == "seed":
            return f"pruned after {len(row.steps)} of {view.seeds} seeds"
        return f"pruned at epoch {last}"
    return f"failed: {' '.join(row.failure.split()) or 'no reason was recorded'}"


def _reason(row: TrialRow) -> str:
    """Why a trial failed, as the process says it that found it so."""
    return f"trial {row.number}: {row.failure}"
