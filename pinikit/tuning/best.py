"""``best.yaml``: the study that measures the best arms of a search again, on fresh seeds and the test set.

Whatever is best of many is partly lucky, so its value in the search is too high. Measured again on seeds that
the search never saw, it is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from pinikit.reporting.text import plural, plus_minus
from pinikit.study.designs.draft import PARTS
from pinikit.tuning.results import BASE, METRICS, ZERO_SHOT, Metric, TrialRow, TuneResult

BEST = "best.yaml"

DEPTH = 3
"""Levels of the base configuration that stand on lines of their own."""

UNSEARCHED = ("seed", "evaluate", "precision", "device", "threads")
"""Keys of a run that a seed or the machine decides, or that say how it is measured."""

ZERO_SHOT_CHANGES = {"method": {"name": "zero_shot"}, "prompt.template": "plain"}


def best_study(result: TuneResult) -> str:
    """The study as YAML: the best arms, ``base`` and ``zero_shot`` on fresh seeds, compared with ``base``.

    The configuration of each arm is that of its trial to the last digit; a comment on it has its value in the
    search.
    """
    rows = result.best()
    lines = [*_head(result, rows), f"name: {result.best_name}"]
    lines += [f"question: {_flow(_question(result, rows))}"]
    lines += ["run:", *_block(_base(result), 1)]
    lines += ["design:", "  kind: arms", f"  baseline: {BASE}", "  arms:"]
    lines += [
        f"    # the configuration that the search began with{_found(result, result.base)}",
        f"    {BASE}: {{}}",
    ]
    lines += [
        f"    # no training{_found(result, result.zero_shot)}",
        f"    {ZERO_SHOT}: {_flow(ZERO_SHOT_CHANGES)}",
    ]
    for row in result.to_measure:
        lines += _arm(result, row)
    lines += [f"seeds: {_flow(list(result.fresh_seeds))}"]
    return "\n".join(lines) + "\n"


def _head(result: TuneResult, rows: Sequence[TrialRow]) -> Iterator[str]:
    """Where the study comes from, and why the numbers in its comments are not to be believed."""
    seeds = f"seed{'s' * (len(result.seeds) > 1)} {', '.join(map(str, result.seeds))}"
    yield _comment(f"Written by `{result.request.command}`.")
    complete = plural(len(result.complete), "complete trial")
    yield f"# The best {len(rows)} of {complete} by {_validation(result)}, on {seeds}."
    yield "# The best of many values is partly luck: what the comments say of the search is too high."
    yield "# This study measures the arms again on seeds that the search never saw, and on the test set,"
    yield "# which it never opened."
    if fixed_split(result):
        yield "# The split is fixed by `run.data`: training and validation pictures are those of the search."


def fixed_split(result: TuneResult) -> bool:
    """Whether the study says which pictures are trained on, so that fresh seeds are no fresh pictures."""
    data = result.base_config["data"]
    return data.get("split_seed") is not None or data.get("manifest") is not None


def _question(result: TuneResult, rows: Sequence[TrialRow]) -> str:
    who = "the best arm" if len(rows) == 1 else f"any of the best {len(rows)} arms"
    return f"Does {who} of the search {result.name} beat {BASE} on fresh seeds?"


def _validation(result: TuneResult) -> str:
    """``validation accuracy and NLL, noise at its mean``."""
    metrics = " and ".join(METRICS[key].measured for key in result.metrics)
    noise = {"mean": "noise at its mean", "sample": "one draw of the noise"}.get(result.noise, result.noise)
    return f"{metrics} ({noise})"


def _arm(result: TuneResult, row: TrialRow) -> Iterator[str]:
    known = f" ({row.label})" if row.label else ""
    yield f"    {_comment(f'rank {result.rank(row)} in the search{known}{_found(result, row)}')}"
    reference = result.base.config if result.base is not None else result.base_config
    changes = dict(changed(searched(reference), searched(row.config)))
    if not changes:
        yield f"    {row.name}: {{}}"
        return
    yield f"    {row.name}:"
    for key, value in changes.items():
        yield f"      {_flow(key)}: {_flow(value)}"


def _found(result: TuneResult, row: TrialRow | None) -> str:
    """What the search says of a trial, with its interval over seeds."""
    if row is None:
        return ""
    said = [f"{METRICS[key].measured} {value_text(row, METRICS[key])}" for key in result.metrics]
    return f": {', '.join(said)} in the search"


def value_text(row: TrialRow, metric: Metric) -> str:
    """``84.20 ± 1.31 %``: a metric's mean over the search's seeds with its interval."""
    found = row.estimate(metric.key)
    return f"{plus_minus(found.mean, found.interval, metric.digits)} {metric.unit}"


def _base(result: TuneResult) -> dict[str, Any]:
    """The base configuration, evaluated on the test set as the search did it on validation data."""
    config = dict(result.base_config)
    modes = [mode for mode in config["evaluate"]["noise"] if mode not in (result.noise, "mean")]
    # The headline is the mean wherever it is evaluated, so another treatment must do without it.
    config["evaluate"] = {**config["evaluate"], "noise": [result.noise, *modes]}
    return config


def searched(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run configuration without :data:`UNSEARCHED`."""
    return {key: value for key, value in config.items() if key not in UNSEARCHED}


def changed(base: Mapping[str, Any], own: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Key paths with what stands there in ``own`` and not in ``base``; ``null`` takes an injection or a loss.

    Another component comes with all of its parameters, as it drops the former's.
    """
    for key in [*base, *(key for key in own if key not in base)]:
        place = f"{path}{key}"
        if key not in own:
            yield place, None
        elif key not in base:
            yield place, own[key]
        elif _are_alike(base[key], own[key]):
            yield from changed(base[key], own[key], f"{place}.")
        elif base[key] != own[key]:
            yield place, own[key]


def _are_alike(one: Any, other: Any) -> bool:
    """Whether both are mappings of the same component, so that their keys are compared one by one."""
    both = isinstance(one, Mapping) and isinstance(other, Mapping)
    return both and one.get("name") == other.get("name")


def _block(value: Mapping[str, Any], level: int) -> Iterator[str]:
    """A mapping with a line for each key; those below :data:`DEPTH` stand in braces."""
    for key, item in value.items():
        indent = "  " * level
        if isinstance(item, Mapping) and item and level < DEPTH and (key == "method" or key in PARTS):
            yield f"{indent}{_flow(key)}:"
            yield from _block(item, level + 1)
        else:
            yield f"{indent}{_flow(key)}: {_flow(item)}"


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    text = yaml.dump(
        value,
        Dumper=_OneLine,
        default_flow_style=True,
        width=float("inf"),
        allow_unicode=True,
        sort_keys=False,
    )
    return str(text).removesuffix("\n").removesuffix("\n...")


class _OneLine(yaml.SafeDumper):
    """Escapes line breaks, which would stand as lines of their own otherwise."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_OneLine.add_representer(str, _text)


def _comment(text: str) -> str:
    """A comment of one line, whatever stands in the text."""
    return "# " + "".join(sign if sign.isprintable() else " " for sign in text)
