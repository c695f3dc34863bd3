"""The space of a tune study: suggests configurations that can be built, and asks for nothing else.

What an injection or a loss can be is found out with everything else as in the base, so that little has to
be built and most of it is known from earlier suggestions. A finished suggestion is looked at as a whole.
Where its parts do not go together, which is rare, it is gone through again, each parameter with those before
it as they are; a parameter whose choices are then fewer is asked for under another name, and no trial is told
of what was drawn before. Whatever is offered follows from the space and the parameters before it, never from
earlier trials, so a suggestion can be repeated. Imports neither torch nor optuna.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pinikit.config.build import create
from pinikit.config.checking import Checker
from pinikit.errors import ConfigError
from pinikit.plugin import registry
from pinikit.study.designs.draft import GONE, content_at
from pinikit.tuning.asking import Asker, NotOfferedError, OfPoint, OfTrial, name_in_context
from pinikit.tuning.openings import NOTHING, Choice, Number, Opening, Steps, read_openings, unit_of
from pinikit.tuning.study import TuneStudy

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

SEVERAL, FEW = 16, 64
"""Values up to which whole numbers are looked at one by one: always, and where an end is impossible."""

MOST_TRIES = 300
"""Configurations that are looked at to find out what else must change with a choice."""

MOST_STEPS = 4
"""Further parameters that may have to change with a choice."""

MOST_BUILT = 2000
"""Configurations that are kept, as most are asked for again and again in a suggestion."""

Values = dict[str, Any]
"""By an opening's name: the index of a choice's option, or a number. What is left out is at its start."""


@dataclass(frozen=True)
class _Built:
    """What some values make of the base."""

    config: dict[str, Any]
    active: tuple[Opening, ...]
    """The openings that there are then, in the order of the tree."""


class Space:
    """What of a tune study is open, as a space of configurations that can be built."""

    def __init__(self, study: TuneStudy, fits: Callable[[Mapping[str, Any]], str | None]) -> None:
        """Read the space.

        Args:
            study: resolved.
            fits: the reason why a complete run configuration cannot be built, or None.

        Raises:
            ConfigError: the base cannot be built, or a component refuses an end of a range.
        """
        self._base = study.base
        self._openings = read_openings(study.base, study.search, study.where, Checker(registry()))
        self._fits = fits
        self._reasons: dict[frozenset[tuple[str, Any]], str | None] = {}
        self._local: dict[tuple[Any, ...], Values | None] = {}
        self._built: dict[frozenset[tuple[str, Any]], _Built] = {}
        if (reason := self._why({})) is not None:
            raise ConfigError(f"{study.file}: the base configuration cannot be built: {reason}")
        self._check_ends(self._openings, dict(study.base), study)

    # --- what is asked from outside ---------------------------------------------------------

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """A complete run configuration that can be built.

        Only those parameters are asked for that exist with the values before them, and of their choices only
        those that are possible. The trial ends up with the parameters that the configuration is made of, and
        no others; one that was begun before, or is tried again, gives the same configuration again.
        """
        ask = OfTrial(trial)
        values, asked = self._ask_again(ask)
        if values is None:
            values, asked = self._ask_all(ask), ask
        asked.keep()
        return copy.deepcopy(self._build(values).config)

    def defaults(self) -> dict[str, dict[str, Any]]:
        """Parameters of known points, by label, for Optuna's ``enqueue_trial``.

        The first is ``base``. Then, for every component, injection or loss that is open in the base, each
        other choice at its defaults with everything else as in the base, but for what must change with it.
        What cannot be built is left out.
        """
        points = {"base": self._parameters_of({})}
        for choice in self._build({}).active:
            if not (isinstance(choice, Choice) and choice.slot):
                continue
            for index, option in enumerate(choice.options):
                values = self._repaired({choice.name: index}, partial(_leaves, choice))
                if index != choice.start and values is not None:
                    points[f"{choice.name}={option.label}"] = self._parameters_of(values)
        found: dict[str, dict[str, Any]] = {}
        for label, parameters in points.items():  # two choices may need each other
            if parameters is not None and parameters not in found.values():
                found[label] = parameters
        return found

    def describe(self) -> dict[str, Any]:
        """All parameters by name, with kinds, ranges, choices and conditions; spaces are equal if these are.

        What of a parameter's choices is possible besides follows from backbone, prompts and components.
        """
        return dict(_described(self._openings, {}))

    # --- suggesting -------------------------------------------------------------------------

    def _ask_again(self, ask: OfTrial) -> tuple[Values | None, OfTrial]:
        """The values that a trial's parameters say, if they say them all."""
        for way in (self._ask_apart, self._ask_exactly) if ask.known else ():
            repeated = ask.repeating()
            with suppress(NotOfferedError):
                values = way(repeated)
                if self._why(values) is None:
                    return values, repeated
        return None, ask

    def _ask_all(self, ask: Asker) -> Values:
        """Values for everything that is open, together possible."""
        values = self._ask_apart(ask)
        if self._why(values) is None:
            return values
        ask.restart()
        return self._ask_exactly(ask)

    def _ask_apart(self, ask: Asker) -> Values:
        """Values that are possible in each injection and loss by itself."""
        decided: Values = {}
        unit: Steps = ()
        around: Values = {}  # what concerns all, and what had to change with it
        there: Values = {}  # the same with the unit's own choices
        while (opening := self._next({**there, **decided}, decided)) is not None:
            if unit_of(opening.steps) != unit:
                around = there if unit == () else around
                unit, there = unit_of(opening.steps), around
            held = frozenset(name for name in decided if name in there)
            possible = partial(self._apart, opening, there, held)
            decided[opening.name] = value = self._ask_one(ask, opening, possible)
            if _shapes(opening) and (found := possible(value)) is not None:
                there = found
        return decided

    def _ask_exactly(self, ask: Asker) -> Values:
        """Values that are possible with all those before them."""
        decided: Values = {}
        whole: Values = {}  # what is decided, with what had to change so that it can be built
        while (opening := self._next(whole, decided)) is not None:
            possible = partial(self._exactly, opening, whole, frozenset(decided))
            value = self._ask_one(ask, opening, possible)
            if possible(value) is None:  # a number within its range that does not go with the rest
                assert isinstance(opening, Number)  # of choices only possible ones are offered
                value = whole.get(opening.name, opening.start)
                ask.settle(opening, value)
            decided[opening.name] = value
            if (found := possible(value)) is not None:
                whole = found
        return decided

    def _next(self, values: Values, decided: Collection[str]) -> Opening | None:
        """The next opening to be asked for: what concerns all first, choices between components first."""
        left = [opening for opening in self._build(values).active if opening.name not in decided]
        units = list(dict.fromkeys(unit_of(opening.steps) for opening in left))
        return min(
            left,
            key=lambda opening: (units.index(unit_of(opening.steps)), not _shapes(opening)),
            default=None,
        )

    def _ask_one(self, ask: Asker, opening: Opening, possible: Callable[[Any], Values | None]) -> Any:
        """A value of an opening; of those that are looked at, one that is possible.

        If none is, all are offered: what a parameter goes with is then found out with all the rest.
        """
        if isinstance(opening, Choice):
            labels: dict[Any, Any] = {index: option.label for index, option in enumerate(opening.options)}
        else:
            labels = {value: value for value in _values_of(opening, possible)}
        found = [value for value in labels if possible(value) is not None] or list(labels)
        if isinstance(opening, Number) and len(found) == len(labels):
            return ask.draw(opening)
        left = [labels[value] for value in found]
        return ask.choose(opening, name_in_context(opening.name, list(labels.values()), left), left, found)

    # --- what is possible -------------------------------------------------------------------

    def _apart(self, opening: Opening, there: Values, held: frozenset[str], value: Any) -> Values | None:
        """What can be built with a value in its injection or loss, the others as they are ``there``."""
        if not _shapes(opening):
            there = self._for_parameter(opening, there)
            held = frozenset(name for name in held if name in there)
        key = (frozenset(there.items()), held, opening.name, value)
        if key not in self._local:
            unit = unit_of(opening.steps)
            self._local[key] = self._repaired(
                {**there, opening.name: value},
                lambda other: (
                    (not unit or unit_of(other.steps) == unit)
                    and other.name not in held
                    and other.name != opening.name
                ),
            )
        return self._local[key]

    def _for_parameter(self, opening: Opening, there: Values) -> Values:
        """Of what is there, that on which a parameter's choices are taken to depend.

        That is what concerns all injections, the site, and the component whose parameter it is.
        """
        unit = unit_of(opening.steps)
        counts = {
            other.name
            for other in self._build(there).active
            if (unit and unit_of(other.steps) != unit)
            or other.steps == opening.steps[: len(other.steps)]
            or other.steps == (*unit, "site")
        }
        return {name: value for name, value in there.items() if name in counts}

    def _exactly(self, opening: Opening, whole: Values, held: frozenset[str], value: Any) -> Values | None:
        """What can be built with a value and all that are held."""
        return self._repaired(
            {**whole, opening.name: value},
            lambda other: other.name not in held and other.name != opening.name,
        )

    def _repaired(self, values: Values, free: Callable[[Opening], bool]) -> Values | None:
        """The values, with others changed where they must be so that they can be built; None if none helps.

        One that leads to another obstacle is taken for a step forward.
        """
        reason, seen, tries = self._why(values), set(), 0
        for _ in range(MOST_STEPS):
            if reason is None:
                return values
            seen.add(reason)
            further: tuple[Values, str] | None = None
            for other in self._neighbours(values, free, reason):
                found, tries = self._why(other), tries + 1
                if found is None:
                    return other
                if further is None and found not in seen:
                    further = (other, found)
                if tries == MOST_TRIES:
                    return None
            if further is None:
                return None
            values, reason = further
        return None

    def _neighbours(self, values: Values, free: Callable[[Opening], bool], reason: str) -> Iterator[Values]:
        """The values with one changed that the reason speaks of, or any if it speaks of none that is open."""
        active = self._build(values).active
        words = set(re.findall(r"\w+", reason))
        meant = [opening for opening in active if opening.steps[-1] in words]
        for opening in filter(free, meant or active):
            if isinstance(opening, Choice):
                others: Sequence[Any] = range(len(opening.options))
            else:
                others = _every(opening) if opening.whole and opening.count <= SEVERAL else ()
            now = values.get(opening.name, opening.start)
            yield from ({**values, opening.name: other} for other in others if other != now)

    def _why(self, values: Values) -> str | None:
        """Why the base with these values cannot be built; None if it can."""
        built = self._build(values)
        key = frozenset(
            (opening.name, values[opening.name])
            for opening in built.active
            if values.get(opening.name, opening.start) != opening.start
        )
        if key not in self._reasons:
            self._reasons[key] = self._fits(built.config)
        return self._reasons[key]

    # --- configurations ---------------------------------------------------------------------

    def _build(self, values: Values) -> _Built:
        key = frozenset(values.items())
        if key not in self._built:
            if len(self._built) == MOST_BUILT:
                self._built.clear()
            active: list[Opening] = []
            config = _filled(dict(self._base), self._openings, values, active)
            self._built[key] = _Built(config, tuple(active))
        return self._built[key]

    def _parameters_of(self, values: Values) -> dict[str, Any] | None:
        """What Optuna calls a known point; None if it is not offered."""
        point = OfPoint(values)
        try:
            self._ask_all(point)
        except NotOfferedError:
            return None
        return point.parameters

    def _check_ends(self, openings: Sequence[Opening], config: dict[str, Any], study: TuneStudy) -> None:
        """Refuse ranges whose ends a component refuses.

        Raises:
            ConfigError: says the component's reason.
        """
        for opening in openings:
            if isinstance(opening, Choice):
                for option in opening.options:
                    self._check_ends(option.inner, _put(config, opening.steps, option.value), study)
            elif opening.component[0] not in ("", "dataset"):
                kind, steps = opening.component
                for end in (opening.low, opening.high):
                    spec = content_at(_put(config, opening.steps, end), ".".join(steps))
                    try:
                        create(kind, spec, ".".join(steps))
                    except ConfigError as error:
                        raise ConfigError(f"{study.where / opening.key}: {error}") from error


def _shapes(opening: Opening) -> bool:
    """Whether what else is possible is looked at anew with each of its values.

    That is so for components, for how noise is shared, and for what concerns all injections but training
    settings. The parameters of a component are taken not to depend on each other.
    """
    if not unit_of(opening.steps):
        return opening.steps[:2] != ("method", "optim") and (isinstance(opening, Choice) or opening.whole)
    return isinstance(opening, Choice) and (
        opening.slot or len(opening.steps) == len(unit_of(opening.steps)) + 1
    )


def _leaves(choice: Choice, other: Opening) -> bool:
    """Whether a choice is still there, as it is, whatever another one comes to."""
    return other.steps != choice.steps[: len(other.steps)]


def _values_of(number: Number, possible: Callable[[Any], Values | None]) -> list[Any]:
    """The values of a range that are to be looked at one by one; none to take it as it is."""
    if not number.whole or number.count > FEW:
        return []
    ends = (int(number.low), int(number.high))
    if number.count > SEVERAL and all(possible(end) is not None for end in ends):
        return []
    return _every(number)


def _every(number: Number) -> list[Any]:
    """All values of a range of whole numbers."""
    return list(range(int(number.low), int(number.high) + 1, int(number.step or 1)))


def _filled(
    config: dict[str, Any], openings: Sequence[Opening], values: Values, active: list[Opening]
) -> dict[str, Any]:
    """A configuration with the values of all openings that there are, which are noted in ``active``."""
    for opening in openings:
        active.append(opening)
        value = values.get(opening.name, opening.start)
        if isinstance(opening, Choice):
            option = opening.options[value]
            config = _filled(_put(config, opening.steps, option.value), option.inner, values, active)
        else:
            config = _put(config, opening.steps, value)
    return config


def _put(config: dict[str, Any], steps: Steps, value: Any) -> dict[str, Any]:
    """A configuration with a value at its place; what does not change is shared."""
    found = content_at(config, ".".join(steps))
    if found is GONE if value is NOTHING else found is value or found == value:
        return config
    key, *rest = steps
    if rest:
        return {**config, key: _put(config[key], tuple(rest), value)}
    if value is NOTHING:
        return {other: item for other, item in config.items() if other != key}
    return {**config, key: value}


def _described(openings: Sequence[Opening], when: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for opening in openings:
        condition = {"when": dict(when)} if when else {}
        if isinstance(opening, Number):
            bounds = {"low": opening.low, "high": opening.high, "log": opening.log, "step": opening.step}
            yield opening.name, {"kind": "int" if opening.whole else "float", **bounds, **condition}
            continue
        labels = [option.label for option in opening.options]
        content = {str(o.label): o.value for o in opening.options if o.value is not NOTHING}
        slot = {"content": copy.deepcopy(content)} if opening.slot else {}
        yield opening.name, {"kind": "choice", "choices": labels, **slot, **condition}
        for option in opening.options:
            yield from _described(option.inner, {**when, opening.name: option.label})
