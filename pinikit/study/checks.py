"""What can only be checked with the backbone at hand: stages, shapes, prompts, pictures.

Arms whose configurations differ in floating-point numbers only have the same footprint, so a model is
built once for all of them; the numbers themselves are looked at by the components' constructors.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pinikit.config.build import create
from pinikit.config.checking import Checker, Slot, slots_of
from pinikit.config.schema import RunConfig
from pinikit.errors import ConfigError, DataError, PinikitError
from pinikit.plugin import registry
from pinikit.study.collecting import collecting_later
from pinikit.study.groups import shapes_of
from pinikit.study.store import Store
from pinikit.study.study import Run, Study

if TYPE_CHECKING:
    from pinikit.components.contracts import Footprint
    from pinikit.study.run import Workshop


@dataclass(frozen=True)
class Checked:
    """What checking a study's runs gave."""

    footprints: Mapping[str, Footprint]
    """By arm."""
    dropped: Mapping[str, str]
    """Arms that cannot be built and are to be left out, with the reason."""


@collecting_later()
def check_runs(study: Study, runs: Sequence[Run], workshop: Workshop) -> Checked:
    """Validate the arms of ``runs`` on their backbones and data; all that is wrong is said at once.

    Arms that cannot be built are dropped where the study says so, unless others are compared with them
    or they have published numbers to reproduce.

    Raises:
        ConfigError, DataError, WeightsError: file, arm, key, what was found and what is allowed.
    """
    look = Look(workshop)
    footprints: dict[str, Footprint] = {}
    wrong = look.pictures(runs)
    dropped: dict[str, str] = {}
    needed = _needed(study)
    first = _first_by_arm(runs)
    for (arm, run), shape in zip(first.items(), shapes_of(list(first.values())), strict=True):
        found = look.footprint(run, shape)
        if not isinstance(found, PinikitError):
            footprints[arm] = found
        elif study.impossible == "drop" and isinstance(found, ConfigError) and arm not in needed:
            dropped[arm] = str(found)
        else:
            wrong.setdefault(arm, found)
    _raise_all(study, wrong)
    if dropped and not set(study.arms) - set(dropped) - {arm.baseline for arm in study.arms.values()}:
        raise ConfigError(
            f"{study.file}: design: no arm is possible" + "".join(f"\n{line}" for line in reasons(dropped))
        )
    return Checked(footprints, dropped)


def dropped_record(study: Study) -> dict[str, Any]:
    """What :func:`recall_dropped` needs, for the study's index."""
    if not study.dropped:
        return {}
    arms = {arm: {"reason": reason, "runs": study.dropped_runs[arm]} for arm, reason in study.dropped.items()}
    return {"arms": arms, "versions": _versions()}


def recall_dropped(study: Study, store: Store) -> Study:
    """The study without the arms that were found impossible before, so that no model is built for them.

    They are known by what their runs are, and by the versions of the packages that decide it. A record
    that is missing or damaged is ignored.
    """
    from pinikit.study.index import read_index

    if study.impossible != "drop":
        return study
    try:
        record = read_index(store, study.name).dropped
    except DataError:
        return study
    if not isinstance(record, dict) or record.get("versions") != _versions():
        return study
    entries, needed = record.get("arms"), _needed(study)
    dropped = {
        arm: str(entry["reason"])
        for arm, entry in (entries if isinstance(entries, dict) else {}).items()
        if arm in study.runs_by_arm
        and arm not in needed
        and isinstance(entry, dict)
        and "reason" in entry
        and entry.get("runs") == [run.id for run in study.runs_by_arm[arm].values()]
    }
    return study.without(dropped)


def _needed(study: Study) -> set[str | None]:
    """Arms that are not dropped: others are compared with them, or they have numbers to reproduce."""
    return {arm.baseline for arm in study.arms.values()} | set(study.expect)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("pinikit", "torch", "timm", "open_clip_torch")}


def reasons(dropped: Mapping[str, str]) -> list[str]:
    """Dropped arms as lines, one for each reason."""
    from pinikit.study.patterns import few

    by_reason: dict[str, list[str]] = {}
    for arm, reason in dropped.items():
        by_reason.setdefault(reason, []).append(arm)
    return [
        f"dropped {'arm' if len(arms) == 1 else f'{len(arms)} arms'} {few(map(repr, arms))}: {reason}"
        for reason, arms in by_reason.items()
    ]


def _first_by_arm(runs: Sequence[Run]) -> dict[str, Run]:
    found: dict[str, Run] = {}
    for run in runs:
        found.setdefault(run.arm, run)
    return found


def _raise_all(study: Study, wrong: Mapping[str, PinikitError]) -> None:
    if wrong:
        lines = [f"{study.file}: arm {arm!r}: {error}" for arm, error in wrong.items()]
        raise type(next(iter(wrong.values())))("\n".join(lines))


@dataclass
class _Structure:
    """What is known of the arms of one shape."""

    footprint: Footprint | None = None
    errors: list[str] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """Whether no arm of the shape can be built: two refusals that do not speak of a number."""
        return len(self.errors) == 2 and self.errors[0] == self.errors[1]


class Look:
    """Looks at runs; what several share is looked at once."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop, self._checker = workshop, Checker(registry())
        self._structures: dict[Hashable, _Structure] = {}
        self._elsewhere: dict[Hashable, str] = {}
        """Why arms of a shape cannot be tested on other data; empty where they can."""
        self._sound: dict[int, Any] = {}
        """Parts of configurations whose components can be constructed, by their identity in memory."""

    def pictures(self, runs: Sequence[Run]) -> dict[str, PinikitError]:
        """What is wrong with the pictures, by the first arm that needs them."""
        wrong: dict[str, PinikitError] = {}
        seen = set()
        for run in runs:
            parts = [((id(run.dataset), run.manifest.hash), run.dataset, run.manifest.items)]
            parts += [((id(other), ""), other.dataset, other.items) for other in run.others.values()]
            for key, dataset, items in parts:
                if key not in seen:
                    seen.add(key)
                    try:
                        dataset.check(items)
                    except PinikitError as error:
                        wrong.setdefault(run.arm, error)
        return wrong

    def footprint(self, run: Run, shape: Hashable) -> Footprint | PinikitError:
        """The footprint of a run, or what stands in its way."""
        known = self._structures.setdefault(shape, _Structure())
        try:
            self._construct(run.config["method"], slots_of(RunConfig)["method"], "run.method")
            footprint = self._known_footprint(run, known)
            for label in run.others:
                self._check_other(run, label, shape)
            return footprint
        except PinikitError as error:
            return error

    def _check_other(self, run: Run, label: str, shape: Hashable) -> None:
        """See that what the run learns can be used on other data.

        Raises:
            ConfigError: it cannot; says what of it, and which data.
        """
        key = (shape, label, id(run.others[label]))
        if key not in self._elsewhere:
            self._elsewhere[key] = self._objection(run, label)
        if self._elsewhere[key]:
            raise ConfigError(self._elsewhere[key])

    def _objection(self, run: Run, label: str) -> str:
        """Why what the run learns cannot be used on other data; empty where it can."""
        from pinikit.study.run import method_of

        other, backbone = run.others[label], self._workshop.backbone(run)
        same = other.class_names == run.manifest.class_names
        try:
            prompts = self._workshop.prompts_of(run), self._workshop.prompts_of(run, label)
            method_of(run).check_transfer(backbone, *prompts, same_classes=same)
        except ConfigError as error:
            return f"run.evaluate.other_data.{label}: data set {other.dataset.name!r}: {error}"
        return ""

    def _construct(self, value: Mapping[str, Any], slot: Slot, where: str) -> None:
        """Construct the components of a configuration, so that each looks at its parameters.

        Raises:
            ConfigError: one refuses a value.
        """
        if id(value) in self._sound:
            return
        kind, slots = self._checker.inside(value, slot)
        if kind is not None:
            create(kind, value, where)
        for key, item in value.items():
            if item.__class__ is dict and key in slots:
                self._construct(item, slots[key], f"{where}.{key}")
        self._sound[id(value)] = value

    def _known_footprint(self, run: Run, known: _Structure) -> Footprint:
        from pinikit.study.run import check_evaluation, method_of

        check_evaluation(run)
        if known.refused:
            raise ConfigError(known.errors[0])
        if known.footprint is None:
            try:
                backbone, prompts = self._workshop.backbone(run), self._workshop.prompts_of(run)
                known.footprint = method_of(run).footprint(backbone, prompts)
            except ConfigError as error:
                known.errors.append(str(error))
                raise
        return known.footprint
