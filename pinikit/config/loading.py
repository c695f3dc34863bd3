"""Reading study files and overrides, and laying them over each other. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pinikit.config.checking import Checker, Slot, Where
from pinikit.config.schema import RunConfig, StudyConfig
from pinikit.errors import ConfigError, listing, nearest

STUDY = Slot(StudyConfig)
RUN = Slot(RunConfig)


def find_study(source: str | Path) -> Path:
    """A study file by path, or a shipped study by name (``injection_sites``).

    Raises:
        ConfigError: neither is there; names the nearest shipped study.
    """
    path = Path(source)
    if path.is_file():
        return path
    shipped = shipped_studies()
    if str(source) in shipped:
        return shipped[str(source)]
    raise ConfigError(
        f"study {str(source)!r}: no such file, and no shipped study of that name"
        f"{nearest(str(source), shipped)}; shipped: {listing(shipped)}"
    )


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
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error


def parse_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """``key.path=value`` words, or a mapping of key paths, as one nested mapping.

    Raises:
        ConfigError: a word without ``=``, or a value that is no YAML.
    """
    if isinstance(overrides, Mapping):
        return nest(overrides, Where("overrides"))
    pairs = {}
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"command line: found {word!r}; allowed: KEY=VALUE such as run.data.shots=4")
        pairs[key] = _parse_value(key, text)
    return nest(pairs, Where("command line"))


def _parse_value(key: str, text: str) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index,call-overload]
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"command line: {key}: {text!r} is not a YAML value") from error


def nest(flat: Mapping[str, Any], where: Where) -> dict[str, Any]:
    """Key paths (``method.injections.image``) as nested mappings; ``null`` at the end is kept.

    Raises:
        ConfigError: two paths contradict each other.
    """
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = str(path).split(".")
        place = nested
        for key in parents:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{where / str(path)}: contradicts another key of the same mapping")
        value = nest(value, where / str(path)) if isinstance(value, Mapping) else value
        if isinstance(place.get(last), dict) and isinstance(value, dict):
            value = {**place[last], **value}
        place[last] = value
    return nested


def load_study(
    path: Path, overrides: Sequence[str] | Mapping[str, Any], checker: Checker
) -> tuple[StudyConfig, dict[str, dict[str, Any]]]:
    """A study and its arms' run configurations, checked and complete, without seeds.

    Returns:
        The study, and for each arm its resolved run configuration as plain containers.

    Raises:
        ConfigError: anything that is wrong, with file, key, what was found and what is allowed.
    """
    content = read_yaml(path)
    where = Where(str(path))
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"{path}: found {type(content).__name__}; allowed: a mapping with the keys of a study"
        )
    merged = checker.merge({}, _nest_arms(content, where), STUDY, where)
    commanded = _nest_arms(parse_overrides(overrides), Where("command line"))
    arm_overrides: dict[str, Any] = {}
    if isinstance(commanded.get("design"), dict):
        arm_overrides = commanded["design"].pop("arms", {})
    merged = checker.merge(merged, commanded, STUDY, Where("command line"))
    study = _typed(checker.complete(merged, STUDY, where))
    patches = study.design.arms or {study.name: {}}
    for name in arm_overrides:
        if name not in patches:
            raise ConfigError(
                f"command line: design.arms.{name}: the study has no such arm{nearest(name, patches)}; "
                f"allowed: {listing(patches)}"
            )
    arms = {}
    for name, patch in patches.items():
        place = where / "design.arms" / name
        arm = checker.merge(merged.get("run", {}), patch or {}, RUN, place)
        arm = checker.merge(
            arm, arm_overrides.get(name, {}), RUN, Where("command line", f"design.arms.{name}")
        )
        arms[name] = checker.complete(arm, RUN, place)
    return study, arms


def _nest_arms(content: Mapping[str, Any], where: Where) -> dict[str, Any]:
    """The study with the key paths inside its arms nested; names of arms may have dots themselves."""
    nested = dict(content)
    design = nested.get("design")
    if isinstance(design, Mapping) and "arms" in design:
        place = where / "design.arms"
        if not isinstance(design["arms"], Mapping):
            raise ConfigError(f"{place}: found {design['arms']!r}; allowed: a mapping of names to changes")
        arms = {str(name): _nest_patch(patch, place / str(name)) for name, patch in design["arms"].items()}
        nested["design"] = {**design, "arms": arms}
    return nested


def _nest_patch(patch: Any, where: Where) -> dict[str, Any]:
    if not isinstance(patch, Mapping | None):
        raise ConfigError(f"{where}: found {patch!r}; allowed: a mapping of key paths of 'run'")
    return nest(patch or {}, where)


def _typed(study: Mapping[str, Any]) -> StudyConfig:
    """The checked study as its dataclass, through OmegaConf's structured configuration."""
    typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(StudyConfig), study))
    assert isinstance(typed, StudyConfig)
    return typed
