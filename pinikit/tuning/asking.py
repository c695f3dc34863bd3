"""Whom a suggestion's values come from, and what Optuna calls them. Imports neither torch nor optuna."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from pinikit.config.text import value_text
from pinikit.tuning.openings import Number, Opening

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

LONGEST_NAME = 400
"""Letters of a parameter's name; Optuna's databases hold 512."""


def name_in_context(name: str, labels: Sequence[Any], left: Sequence[Any]) -> str:
    """A parameter's name, with those choices that are left where not all of them are."""
    if list(labels) == list(left):
        return name
    gone = [label for label in labels if label not in left]
    words = {"only": left, "without": gone} if gone else {"only": left}
    texts = [f"{name} ({word} {', '.join(map(value_text, some))})" for word, some in words.items()]
    text = min(texts, key=len)
    if len(text) <= LONGEST_NAME:
        return text
    return f"{text[:LONGEST_NAME]}… {hashlib.sha256(text.encode()).hexdigest()[:8]})"


def plain_name(name: str) -> str:
    """A parameter's name without what :func:`name_in_context` adds: that of the space's description."""
    return re.split(r" \((?:only|without) ", name, maxsplit=1)[0]


class NotOfferedError(Exception):
    """What was to be chosen is not possible here."""


class Asker(Protocol):
    """Whom a suggestion's values come from."""

    def choose(self, choice: Opening, name: str, labels: Sequence[Any], indices: Sequence[Any]) -> Any:
        """One of ``indices``, known outside by its label."""

    def draw(self, number: Number) -> float:
        """A value of the whole range."""

    def settle(self, number: Number, value: float) -> None:
        """Give a number this value in place of the one that was drawn, which does not count."""

    def restart(self) -> None:
        """Begin again: nothing that was asked for so far counts."""


class OfTrial:
    """Asks Optuna's trial, which is told at the end, and only of what counts.

    What is drawn and then given up would else stay among the trial's parameters, where samplers and
    importances would take it for the cause of the trial's value.
    """

    def __init__(self, trial: BaseTrial) -> None:
        self._trial = self._draft = trial
        self._strict = False
        self._counting: dict[str, None] = {}
        given = ("_fixed_params", "_params")  # of enqueued trials, and of Optuna's FixedTrial
        self.known = {name: value for key in given for name, value in getattr(trial, key, {}).items()}
        """Parameters that the trial has, or is to have; they are drawn with these values."""
        self.known |= trial.params
        self._held: _Held | None = None
        if hasattr(trial, "storage"):  # a FixedTrial keeps nothing
            self._held = _Held(trial.storage)
            self._draft = _draft_of(trial, self._held)

    def repeating(self) -> Self:
        """The same, but nothing new is drawn: what is not known is not offered."""
        other = copy.copy(self)
        other._strict, other._counting = True, {}
        return other

    def choose(self, choice: Opening, name: str, labels: Sequence[Any], indices: Sequence[Any]) -> Any:
        """What the trial says of a choice."""
        self._look_up(name)
        self._counting[name] = None
        return indices[list(labels).index(self._draft.suggest_categorical(name, labels))]

    def draw(self, number: Number) -> float:
        """What the trial says of a range."""
        for name, value in self.known.items():
            if plain_name(name) == number.name and name == name_in_context(number.name, [], [value]):
                self.settle(number, value)
                return float(value) if not number.whole else int(value)
        self._look_up(number.name)
        self._counting[number.name] = None
        if number.whole:
            step = int(number.step or 1)
            low, high = int(number.low), int(number.high)
            return int(self._draft.suggest_int(number.name, low, high, step=step, log=number.log))
        step_size = number.step
        return float(
            self._draft.suggest_float(number.name, number.low, number.high, step=step_size, log=number.log)
        )

    def settle(self, number: Number, value: float) -> None:
        """Known as the only choice of its name."""
        self._counting.pop(number.name, None)
        name = name_in_context(number.name, [], [value])
        self._counting[name] = None
        self._draft.suggest_categorical(name, [value])

    def restart(self) -> None:
        """Forget what was asked for; the trial gives it again under the same names."""
        self._counting.clear()

    def keep(self) -> None:
        """Tell the trial of its parameters."""
        if self._held is None:
            return
        trial: Any = self._trial
        for name in self._counting:
            if name in self._held.parameters:
                trial.storage.set_trial_param(trial._trial_id, name, *self._held.parameters[name])
        trial._cached_frozen_trial = trial.storage.get_trial(trial._trial_id)

    def _look_up(self, name: str) -> None:
        if self._strict and name not in self.known:
            raise NotOfferedError


class _Held:
    """A storage that keeps a trial's parameters to itself, and is otherwise the one behind it."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.parameters: dict[str, tuple[float, Any]] = {}
        """Internal values and distributions, by name."""

    def set_trial_param(self, trial_id: int, name: str, value: float, distribution: Any) -> None:
        """Keep it."""
        self.parameters[name] = (value, distribution)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


def _draft_of(trial: Any, storage: _Held) -> Any:
    """A copy of Optuna's trial that draws as it does, in another storage."""
    draft, frozen = copy.copy(trial), copy.copy(trial._cached_frozen_trial)
    frozen.params, frozen.distributions = dict(frozen.params), dict(frozen.distributions)
    draft.storage, draft._cached_frozen_trial = storage, frozen
    return draft


class OfPoint:
    """Gives the values of a known point, and notes what Optuna would call them."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.parameters: dict[str, Any] = {}

    def choose(self, choice: Opening, name: str, labels: Sequence[Any], indices: Sequence[Any]) -> Any:
        """The point's own, if it is possible."""
        wanted = self._values.get(choice.name, choice.start)
        if wanted not in indices:
            raise NotOfferedError
        self.parameters[name] = labels[list(indices).index(wanted)]
        return wanted

    def draw(self, number: Number) -> float:
        """The point's own."""
        value: float = self._values.get(number.name, number.start)
        self.parameters[number.name] = value
        return value

    def settle(self, number: Number, value: float) -> None:
        """In place of the point's own."""
        self.parameters.pop(number.name, None)
        self.parameters[name_in_context(number.name, [], [value])] = value

    def restart(self) -> None:
        """Forget the names."""
        self.parameters.clear()
