"""Reading study files and overrides, and laying them over each other. Imports no torch."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pinikit.config.checking import Checker, Slot, Where, item_slot, printable, shown, slots_of
from pinikit.config.schema import ALONE, ExpectConfig, RunConfig, StudyConfig
from pinikit.errors import ConfigError, listing, nearest

STUDY = Slot(StudyConfig)
RUN = Slot(RunConfig)

METHOD = "run.method"

REMOVABLE = (
    f"{METHOD}.injections",
    f"{METHOD}.losses",
    "run.evaluate.other_data",
    "design.factors",
    "design.axes",
    "expect",
)
"""Mappings of a study of which ``null`` takes a label away."""

WHOLE = ("design.factors", "design.axes", "design.parts", "expect", "search")
"""Keys of a study whose own keys may have dots: key paths, or names of arms."""


@dataclass(frozen=True)
class StudyFile:
    """A study as read: its defaults below it, the command line above it."""

    path: Path
    config: StudyConfig
    run: Mapping[str, Any]
    """What was given of the base configuration, before defaults are filled in."""
    arm_overrides: Mapping[str, Mapping[str, Any]]
    """Changes by the command line to arms that the design names."""
    given: frozenset[str] = frozenset()
    """The study's own keys that were given, by itself, its defaults or the command line."""

    @property
    def where(self) -> Where:
        """The file, for messages."""
        return Where(str(self.path))


def find_study(source: str | Path, folder: Path | None = None) -> Path:
    """A study file by path, or a shipped study by name (``injection_sites``).

    Args:
        source: path or name.
        folder: what a path is relative to; the current folder unless given.

    Raises:
        ConfigError: neither is there; names the nearest shipped study.
    """
    path = Path(folder or ".", source)
    if _is_file(path):
        return path
    shipped = shipped_studies()
    if str(source) in shipped:
        return shipped[str(source)]
    raise ConfigError(
        f"study {shown(str(source))}: no such file, and no shipped study of that name"
        f"{nearest(str(source), shipped)}; shipped: {listing(shipped)}"
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def shipped_studies() -> dict[str, Path]:
    """The studies that come with pinikit, by name: inside a wheel, or beside the package in a checkout."""
    package = Path(str(resources.files("pinikit")))
    folders = [package / "assets" / "studies", package.parent / "studies"]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    paths = sorted(folder.rglob("*.yaml")) if folder else []
    return {str(path.relative_to(folder or path).with_suffix("")): path for path in paths}


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, with interpolations resolved.

    Raises:
        ConfigError: the file cannot be read, or is no YAML; says where.
    """
    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not a UTF-8 text file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise ConfigError(f"{path}{line}: is not valid YAML ({problem})") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply") from error
    except (OmegaConfBaseException, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{path}: {printable(reason)}") from error


def parse_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """``key.path=value`` words, or a mapping of key paths, as one nested mapping.

    Raises:
        ConfigError: a word without ``=``, or a value that is no YAML.
    """
    if isinstance(overrides, Mapping):
        return nest(overrides, Where("overrides"), WHOLE)
    pairs = {}
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"command line: found {shown(word)}; allowed: KEY=VALUE such as run.data.shots=4"
            )
        pairs[key] = _parse_value(key, text)
    return nest(pairs, Where("command line"), WHOLE)


def override_words(overrides: Sequence[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """Overrides as words of a command line."""
    if not isinstance(overrides, Mapping):
        return tuple(overrides)
    return tuple(f"{key}={_flow(value)}" for key, value in overrides.items())


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _parse_value(key: str, text: str) -> Any:
    try:
        found = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"command line: {key}: {shown(text)} is not a YAML value") from error
    return typing.cast(dict[str, Any], found)["value"]


def nest(flat: Mapping[str, Any], where: Where, whole: Sequence[str] = ()) -> dict[str, Any]:
    """Key paths (``method.injections.image``) as nested mappings; ``null`` at the end is kept.

    Args:
        flat: values by key path.
        where: for messages.
        whole: key paths below which keys stay as they are written.

    Raises:
        ConfigError: two paths contradict each other.
    """
    nested: dict[str, Any] = {}
    for path, value in ((str(key), value) for key, value in flat.items()):
        *parents, last = _steps(path, whole)
        place = nested
        for key in parents:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise _contradiction(place, where / path)
        if isinstance(value, Mapping):
            inner = [key.removeprefix(f"{path}.") for key in whole if key.startswith(f"{path}.")]
            value = dict(value) if _is_below(path, whole) else nest(value, where / path, inner)
        place[last] = _joined(place[last], value, where / path) if last in place else value
    return nested


def _joined(one: Any, other: Any, where: Where) -> dict[str, Any]:
    """Two mappings that were given for one key, whatever their order, as one.

    Raises:
        ConfigError: they give a key twice, or one of them is no mapping.
    """
    if not isinstance(one, dict) or not isinstance(other, dict):
        raise _contradiction(other if isinstance(one, dict) else one, where)
    joined = dict(one)
    for key, value in other.items():
        joined[key] = _joined(one[key], value, where / str(key)) if key in one else value
    return joined


def _contradiction(plain: Any, where: Where) -> ConfigError:
    hint = " (a component beside its parameters is given as 'name')" if isinstance(plain, str) else ""
    return ConfigError(
        f"{where}: contradicts another key of the same mapping, found {shown(plain)}; "
        f"allowed: each key once{hint}"
    )


def _steps(path: str, whole: Sequence[str]) -> list[str]:
    """The keys of a path; what lies below one of ``whole`` is one key."""
    for key in whole:
        if path.startswith(f"{key}."):
            return [*key.split("."), path.removeprefix(f"{key}.")]
    return path.split(".")


def _is_below(path: str, whole: Sequence[str]) -> bool:
    return any(path == key or path.startswith(f"{key}.") for key in whole)


def load_study(path: Path, overrides: Sequence[str] | Mapping[str, Any], checker: Checker) -> StudyFile:
    """A study file with its defaults and overrides, checked; its arms are not derived yet.

    Raises:
        ConfigError: anything that is wrong, with file, key, what was found and what is allowed.
    """
    merged = _read_study(path, checker, ())
    commanded = _nested(parse_overrides(overrides), Where("command line"))
    if "defaults" in commanded:
        raise ConfigError("command line: defaults: allowed in study files only")
    arm_overrides: dict[str, Any] = {}
    if isinstance(commanded.get("design"), dict):
        arm_overrides = commanded["design"].pop("arms", {})
    merged = _without_nulls(_merged(merged, commanded, Where("command line"), checker))
    config = _structured(StudyConfig, checker.complete(merged, STUDY, Where(str(path))))
    return StudyFile(path, config, merged.get("run", {}), arm_overrides, frozenset(merged))


def _read_study(path: Path, checker: Checker, above: tuple[Path, ...]) -> dict[str, Any]:
    """A file laid over its defaults; ``above`` are the files that led here."""
    chain = (*above, path.resolve())
    if path.resolve() in above:
        raise ConfigError(f"{path}: defaults: lead in a circle: {' → '.join(file.name for file in chain)}")
    where = Where(str(path))
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"{path}: found {type(content).__name__}; allowed: a mapping with the keys of a study"
        )
    content = _nested(content, where)
    merged: dict[str, Any] = {}
    for below in _default_files(content.get("defaults", []), path):
        found = _read_study(below, checker, chain)
        inherited = {key: value for key, value in found.items() if key not in ("name", "defaults")}
        merged = _lay(merged, inherited, Where(str(below)), checker)
    return _lay(merged, content, where, checker)


def _default_files(entries: Any, path: Path) -> Iterator[Path]:
    where = Where(str(path), "defaults")
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ConfigError(f"{where}: found {shown(entries)}; allowed: a list of study files or shipped names")
    for entry in entries:
        try:
            yield find_study(entry, path.parent)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


def _lay(
    below: Mapping[str, Any], content: Mapping[str, Any], where: Where, checker: Checker
) -> dict[str, Any]:
    """A study's content over that of its defaults; a design of another kind replaces theirs."""
    design = content.get("design")
    if isinstance(design, Mapping) and "design" in below:
        kinds = [part.get("kind", "arms") for part in (below["design"], design)]
        if "kind" in design and kinds[0] != kinds[1]:
            below = {key: value for key, value in below.items() if key != "design"}
    return _without_nulls(_merged(below, content, where, checker))


def _merged(
    below: Mapping[str, Any], content: Mapping[str, Any], where: Where, checker: Checker
) -> dict[str, Any]:
    """One study over another.

    Raises:
        ConfigError: anything that is wrong; also ``null`` for a label that is not there.
    """
    merged: dict[str, Any] = checker.merge(below, content, STUDY, where)
    for path in REMOVABLE:
        removed = [str(label) for label, value in _at(content, path).items() if value is None]
        known = _known_labels(below, path, where, checker) if removed else []
        for label in removed:
            if label not in known and _same_method(below, content, path):
                raise ConfigError(
                    f"{where / path / label}: found null for a label that is not there"
                    f"{nearest(label, known)}; allowed: {listing(known)}"
                )
    return merged


def _at(content: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The mapping at a key path; empty where there is none."""
    found: Any = content
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _known_labels(below: Mapping[str, Any], path: str, where: Where, checker: Checker) -> list[str]:
    """The labels at a key path, which may be the method's default ones."""
    above, _, key = path.rpartition(".")
    if above == METHOD and key not in _at(below, above):
        slot = slots_of(RunConfig)["method"]
        name = _at(below, METHOD).get("name", slot.default["name"])
        parts = checker.component_slots("method", name, slot.extras)
        return list(checker.default_labels(parts[key], where)) if key in parts else []
    return list(_at(below, path))


def _same_method(below: Mapping[str, Any], content: Mapping[str, Any], path: str) -> bool:
    """Whether the labels at a path are of the method that stands below."""
    names = [_at(study, METHOD).get("name") for study in (below, content)]
    return not path.startswith(f"{METHOD}.") or names[1] in (None, names[0])


def _without_nulls(study: dict[str, Any]) -> dict[str, Any]:
    """Without the factors, axes, expectations and open parameters that ``null`` takes away."""
    study = {**study}
    if isinstance(study.get("design"), Mapping):
        study["design"] = {
            key: _given(value) if key in ("factors", "axes") else value
            for key, value in study["design"].items()
        }
    return study | {key: _given(study[key]) for key in ("expect", "search") if key in study}


def _given(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if value is not None}


def _nested(content: Mapping[str, Any], where: Where) -> dict[str, Any]:
    """The study with the key paths inside its arms nested, and its expectations as lists.

    Names of arms may have dots themselves.
    """
    nested = {str(key): value for key, value in content.items()}
    design = nested.get("design")
    if isinstance(design, Mapping) and "arms" in design:
        nested["design"] = {**design, "arms": _nested_arms(design["arms"], where / "design.arms")}
    if isinstance(nested.get("expect"), Mapping):
        nested["expect"] = {
            str(arm): _expectations(entry, where / "expect" / str(arm))
            for arm, entry in nested["expect"].items()
        }
    return nested


def _nested_arms(arms: Any, where: Where) -> dict[str, Any]:
    if not isinstance(arms, Mapping):
        raise ConfigError(f"{where}: found {shown(arms)}; allowed: a mapping of names to changes")
    return {str(name): nest_patch(patch, where / str(name)) for name, patch in arms.items()}


def nest_patch(patch: Any, where: Where) -> dict[str, Any]:
    """Changes to ``run``, their key paths nested; nothing for ``null``.

    Raises:
        ConfigError: no mapping, or two paths contradict each other.
    """
    if not isinstance(patch, Mapping | None):
        raise ConfigError(f"{where}: found {shown(patch)}; allowed: a mapping of key paths of 'run'")
    return nest(patch or {}, where)


def _expectations(entry: Any, where: Where) -> list[Any] | None:
    """One published number, or a list of them, as a list whose keys are known ones."""
    if entry is None:
        return None
    slots = slots_of(ExpectConfig)
    entries = entry if isinstance(entry, list) else [entry]
    for item in entries:
        for key in item if isinstance(item, Mapping) else ():
            if key not in slots:
                raise ConfigError(
                    f"{where / str(key)}: unknown key {key!r}{nearest(str(key), slots)}; "
                    f"allowed: {listing(slots)}"
                )
    return entries


def _structured(kind: Any, value: Any) -> Any:
    """Checked plain containers as the dataclasses of the schema."""
    if isinstance(kind, type) and kind in ALONE:
        return kind(value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        slots = slots_of(kind)
        return kind(**{key: _structured(slots[key].type, item) for key, item in value.items()})
    if get_origin(kind) is dict:
        return {key: _structured(get_args(kind)[1], item) for key, item in value.items()}
    if get_origin(kind) is list:
        return [_structured(item_slot(kind).type, item) for item in value]
    return value
