"""Random mutations of the shipped studies: one clear message or a valid study, never a traceback."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pinikit.backbones.identity import weights_hash
from pinikit.backbones.spec import BackboneSpec
from pinikit.config import loading
from pinikit.config.loading import read_yaml, shipped_studies
from pinikit.data.manifest import SplitManifest, make_manifest
from pinikit.errors import PinikitError
from pinikit.study import study as module
from pinikit.study.study import Study, resolve_study
from pinikit.tuning.study import TuneStudy, resolve_tune

Resolve = Callable[[Path], Study | TuneStudy]
"""What reads a study file."""

STUDIES = {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in shipped_studies().items()}

DESIGNS = {
    "grid": "{kind: grid, impossible: drop, factors: {method.optim.lr: {values: [0.1, 1], when: {method: pini}}}}",
    "zip": "{kind: zip, factors: {data.shots: [1, 2], size: {a: {data.views: 1}, b: {data.views: 2}}}}",
    "one_factor": "{kind: one_factor, factors: {data.shots: [1, 2]}, axes: {data.views: {few: 1, many: 2}}}",
    "leave_one_out": "{kind: leave_one_out, parts: {more: {data.views: 0}}, arms: {other: {data.views: 1}}}",
}
DUMPER = getattr(yaml, "CDumper", yaml.Dumper)
EXPECT = {"*": {"value": 50.0, "tolerance": 1.0, "protocol": "p", "source": "s"}}

JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 3.7, -0.0, float("nan"), float("inf"), 10**30, -(10**400), "", " ", "x", "null",
    "a.b", "..", "ü", "\u202eabc", "\x07", "a\nb", "𝔘", "\ud800", "x" * 300, "\0", "${name}", "${run.data}", "${", "???",
    "1e-3", "~", "*", "[", [], {}, [[]], [None], {"": None}, {"name": None}, {"name": "pini"}, {"name": []}, {1: 2},
    {None: 3}, {"values": [1]}, {"values": {}, "when": {}}, ["pini", "zero_shot"], {"a": {"b": {"c": {}}}}, "pini",
    "image_block.x", "image_block.", "glyph", "hf-hub:", "local-dir:nowhere", "digits", "caltech101", "image_folder",
    "grid", "zip", "one_factor", "leave_one_out", "injection_sites", "drop", "cuda:99", "fp16", "mean",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def no_work() -> Iterator[None]:
    """Splits of the same data are sampled once, and nothing is downloaded: the mutations are of studies."""
    sampled: dict[Any, SplitManifest] = {}

    def sample(dataset: Any, shots: int, seed: int) -> SplitManifest:
        key = (dataset.name, shots, seed) if dataset.name == "digits" else object()
        if key not in sampled:
            sampled[key] = make_manifest(dataset, shots, seed)
        return sampled[key]

    def weights(spec: BackboneSpec) -> str:
        remote = spec.kind == "hf-hub" or (spec.kind == "architecture" and spec.checkpoint is None)
        return "0" * 64 if remote else weights_hash(spec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "weights_hash", weights)
        patch.setattr(module, "make_manifest", sample)
        yield


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All places in a tree, the root aside."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield (*path, key)
        yield from places(item, (*path, key))


def mutate(content: Any, chance: random.Random) -> None:
    """One mutation at a random place."""
    found = list(places(content))
    if not found:
        return
    *parents, last = chance.choice(found)
    holder = value_at(content, tuple(parents))
    junk = copy.deepcopy(chance.choice(JUNK))
    kind = chance.choice(["replace", "drop", "rename", "misspell", "double", "nest", "unnest", "add", "swap"])
    if kind == "replace":
        holder[last] = junk
    elif kind == "drop":
        del holder[last]
    elif kind in ("rename", "misspell") and isinstance(holder, dict):
        name = f"{last}x" if kind == "misspell" else junk
        if isinstance(name, str | int | float | None):
            holder[name] = holder.pop(last)
    elif kind == "double" and isinstance(holder, dict):
        holder[f"{last}.{last}"] = copy.deepcopy(holder[last])
    elif kind == "nest":
        holder[last] = chance.choice([[holder[last]], {"name": holder[last]}, {str(last): holder[last]}])
    elif kind == "unnest" and isinstance(holder[last], dict) and isinstance(holder, dict):
        holder.update(holder.pop(last))
    elif kind == "add" and isinstance(holder[last], dict):
        holder[last]["extra"] = junk
    elif kind == "add" and isinstance(holder[last], list):
        holder[last].append(junk)
    elif kind == "swap":
        holder[last] = copy.deepcopy(value_at(content, chance.choice(found)))


def value_at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def dumped(content: Any, **options: Any) -> str:
    try:
        return str(yaml.dump(content, Dumper=DUMPER, sort_keys=False, **options))
    except UnicodeEncodeError:  # the fast one refuses half a surrogate pair
        return str(yaml.dump(content, sort_keys=False, **options))


def mutated(chance: random.Random) -> tuple[Any, Resolve]:
    """A study that is wrong in one to three ways, and what reads it."""
    content = copy.deepcopy(STUDIES[chance.choice(sorted(STUDIES))])
    if "search" in content:
        for _ in range(chance.randint(1, 3)):
            mutate(content, chance)
        return content, resolve_tune
    content["design"]["arms"] = dict(list(content["design"].get("arms", {}).items())[:3])  # to be quick
    if chance.random() < 0.5:
        content["design"] = yaml.safe_load(DESIGNS[chance.choice(sorted(DESIGNS))])
        content["expect"] = copy.deepcopy(EXPECT)
    content["seeds"] = [1]
    for _ in range(chance.randint(1, 3)):
        mutate(content, chance)
    return content, resolve_study


def damaged(text: str, chance: random.Random) -> str:
    """Now and then the text itself is wrong."""
    if chance.random() < 0.8:
        return text
    cut = chance.randint(0, len(text))
    return (
        text[:cut] + chance.choice(["", ":", "\t", "]", "\x00", "%", "&a *a", "'", "\n- "]) + text[cut + 1 :]
    )


def resolve(content: Any, path: Path, chance: random.Random, read: Resolve) -> Study | TuneStudy:
    """One in four from a file; the others as if the file had been read, which takes the most time."""
    if chance.random() < 0.25:
        text = damaged(dumped(content, allow_unicode=chance.random() < 0.5), chance)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        return read(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "read_yaml", lambda file: content if file == path else read_yaml(file))
        return read(path)


@settings(max_examples=200, deadline=None, database=None)
@given(st.integers(0, 2**32))
def test_mutated_studies_give_one_message_or_a_study(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    check_mutation(tmp_path_factory, seed)


@pytest.mark.drill
@settings(max_examples=2000, deadline=None, database=None)
@given(st.integers(0, 2**32))
def test_many_mutated_studies(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    check_mutation(tmp_path_factory, seed)


def check_mutation(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    chance = random.Random(seed)
    content, read = mutated(chance)
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.touch()
    try:
        study = resolve(content, path, chance, read)
    except PinikitError as error:
        message = str(error)
        assert message.strip()
        assert len(message.splitlines()) == 1, message
        assert len(message) < 20_000, message
        message.encode()  # can be printed
    else:
        if isinstance(study, TuneStudy):
            assert study.base["method"]["name"]
            return
        assert study.arms
        assert {run.arm for run in study.runs} == set(study.arms)
