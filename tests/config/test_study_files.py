"""Study files, overrides, shorthand, and what is said when they are wrong."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pinikit.config.checking import Checker, Where
from pinikit.config.loading import load_study, nest, parse_overrides
from pinikit.errors import ConfigError
from pinikit.plugin import registry
from pinikit.study.designs import expand
from pinikit.study.study import resolve_study

STUDY: dict[str, Any] = {
    "name": "small",
    "run": {
        "data": {"name": "digits", "shots": 2},
        "method": {"name": "pini", "injections": {}, "optim": {"epochs": 2}},
    },
    "design": {
        "baseline": "zero_shot",
        "arms": {
            "zero_shot": {"method": "zero_shot"},
            "image": {"method.injections.image": {"site": "image_feature", "share": "image"}},
            "block": {"method.injections.image": {"site": "image_block.middle"}},
        },
    },
    "seeds": [1, 2],
}


def write(tmp_path: Path, content: Any = STUDY) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def arms(tmp_path: Path, *overrides: str, content: Any = STUDY) -> dict[str, dict[str, Any]]:
    checker = Checker(registry())
    derived = expand(load_study(write(tmp_path, content), overrides, checker), checker)
    return {name: dict(arm.config) for name, arm in derived.items()}


def test_shorthand_and_defaults(tmp_path: Path) -> None:
    found = arms(tmp_path)
    assert list(found) == ["zero_shot", "image", "block"]
    assert found["zero_shot"]["method"] == {"name": "zero_shot"}
    image = found["image"]["method"]["injections"]["image"]
    assert image["noise"] == {"name": "gaussian", "std": "abs"}
    assert image["injector"] == {"name": "free", "init_std": 0.02}
    assert found["block"]["method"]["injections"]["image"]["site"] == {
        "name": "image_block",
        "index": "middle",
    }
    assert found["image"]["method"]["losses"] == {"classify": {"name": "cross_entropy", "weight": 1.0}}


def test_pini_alone_is_the_published_method(tmp_path: Path) -> None:
    found = arms(tmp_path, content={"name": "s", "run": {"method": "pini"}})["s"]["method"]
    text, image = found["injections"]["text"], found["injections"]["image"]
    assert (text["site"]["name"], text["injector"]["name"], text["share"]) == (
        "prompt_template",
        "free",
        "batch",
    )
    assert text["noise"] == {"name": "gaussian", "std": "sign_free"}
    assert (image["site"]["name"], image["injector"]["name"]) == ("image_feature", "cross_attention")
    assert image["share"] == "image"
    optim = found["optim"]
    assert (optim["lr"], optim["momentum"], optim["weight_decay"], optim["epochs"]) == (1e-3, 0.9, 5e-4, 100)


def test_overrides_reach_everything(tmp_path: Path) -> None:
    found = arms(
        tmp_path,
        "run.data.shots=4",
        "run.method.optim.lr=1e-2",
        "design.arms.image.method.injections.image.noise.std=exp",
        "design.arms.block.method.injections.image=null",
    )
    assert all(arm["data"]["shots"] == 4 for arm in found.values())
    assert found["image"]["method"]["optim"]["lr"] == 0.01
    assert found["image"]["method"]["injections"]["image"]["noise"]["std"] == "exp"
    assert found["block"]["method"]["injections"] == {}


def test_another_component_drops_the_parameters_of_the_former(tmp_path: Path) -> None:
    content = {
        "name": "s",
        "run": {
            "method": {
                "name": "pini",
                "injections": {"a": {"site": "image_feature", "injector": {"name": "mlp", "hidden": 8}}},
            }
        },
    }
    changed = arms(tmp_path, "run.method.injections.a.injector.name=free", content=content)["s"]
    assert changed["method"]["injections"]["a"]["injector"] == {"name": "free", "init_std": 0.02}


def test_equally_named_parameters_do_not_leak_into_another_component(tmp_path: Path) -> None:
    injection = {"site": "image_feature", "injector": {"name": "mlp", "zero_init_heads": True}}
    content = {"name": "s", "run": {"method": {"name": "pini", "injections": {"a": injection}}}}
    changed = arms(tmp_path, "run.method.injections.a.injector=cross_attention", content=content)["s"]
    assert changed["method"]["injections"]["a"]["injector"]["zero_init_heads"] is False
    content = {"name": "s", "run": {"data": {"name": "dtd", "root": "here", "shots": 3}}}
    changed = arms(tmp_path, "run.data.name=digits", content=content)["s"]
    assert changed["data"]["shots"] == 3
    assert "root" not in changed["data"]


def wrong(path: str, value: Any) -> dict[str, Any]:
    """The study with one thing changed."""
    content = copy.deepcopy(STUDY)
    place = content
    *parents, last = path.split("/")
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    return content


MISTAKES = {
    "unknown component": (
        wrong("run/method/injections/i", {"site": "image_featur"}),
        r"run\.method\.injections\.i\.site\.name: unknown site 'image_featur' \(did you mean 'image_feature'\?\)",
    ),
    "misspelt key": (
        wrong("run/data/shotz", 1),
        r"run\.data\.shotz: unknown key 'shotz' \(did you mean 'shots'",
    ),
    "misspelt parameter": (
        wrong("run/method/injections/i", {"site": "pixels", "noise": {"name": "gaussian", "stdd": "abs"}}),
        r"noise\.stdd: unknown key 'stdd' \(did you mean 'std'\?\); allowed: name, std",
    ),
    "wrong type": (
        wrong("run/method/optim/lr", "fast"),
        r"run\.method\.optim\.lr: found 'fast' \(str\); allowed: float",
    ),
    "bool for a number": (
        wrong("run/data/shots", True),
        r"run\.data\.shots: found True \(bool\); allowed: int",
    ),
    "wrong choice": (
        wrong("run/method/optim/schedule", "cosin"),
        r"schedule: found 'cosin' \(did you mean 'cosine'\?\); allowed: cosine, constant",
    ),
    "literal": (
        wrong("run/method/injections/i", {"site": "pixels", "noise": {"name": "gaussian", "std": "ab"}}),
        r"noise\.std: found 'ab' \(str\) \(did you mean 'abs'\?\)",
    ),
    "negative shots": (wrong("run/data/shots", -4), r"run\.data\.shots: found -4; allowed: 1 or more"),
    "zero learning rate": (
        wrong("run/method/optim/lr", 0.0),
        r"optim\.lr: found 0\.0; allowed: a number above 0",
    ),
    "not finite": (
        wrong("run/method/optim/lr", float("nan")),
        r"optim\.lr: found nan; allowed: a finite number",
    ),
    "duplicate seeds": (wrong("seeds", [1, 2, 1]), r"seeds: 1 stands more than once"),
    "no seeds": (wrong("seeds", []), r"seeds: found none"),
    "negative seed": (wrong("seeds", [-1]), r"seeds: found -1"),
    "seed no number": (wrong("seeds", ["x"]), r"seeds\.0: found 'x' \(str\); allowed: int"),
    "unknown baseline": (
        wrong("design/baseline", "zero-shot"),
        r"design\.baseline: found 'zero-shot' \(did you mean 'zero_shot'\?\); allowed: zero_shot, image, block",
    ),
    "unknown top key": (wrong("seed", [1]), r"seed: unknown key 'seed' \(did you mean 'seeds'\?\)"),
    "no mapping": (
        wrong("run/method/injections/i", "pixels"),
        r"injections\.i: found 'pixels' \(str\); allowed: a mapping",
    ),
    "no site": (wrong("run/method/injections/i", {"noise": "zero"}), r"injections\.i\.site: missing"),
    "no name": (
        wrong("run/method/injections/i", {"site": {}}),
        r"i\.site: needs the name of a site; allowed: image_block",
    ),
    "no index": (wrong("run/method/injections/i", {"site": "image_block"}), r"site\.index: missing"),
    "index of a plain site": (
        wrong("run/method/injections/i", {"site": "pixels.2"}),
        r"'pixels' takes no index",
    ),
    "template": (
        wrong("run/prompt", {"template": "plane"}),
        r"template: found 'plane' \(did you mean 'plain'\?\)",
    ),
    "mode": (wrong("name", "bad name/"), r"name: found 'bad name/'"),
    "no name of study": ({"run": {}}, r"name: missing"),
    "a list": ([1], r"found list; allowed: a mapping"),
    "no YAML": ("name: [1\nrun: 2", r"study\.yaml, line \d: is not valid YAML"),
    "duplicate key": ("name: a\nname: b", r"is not valid YAML"),
    "contradiction": (
        wrong("design/arms/image", {"method": "pini", "method.injections": {}}),
        r"method\.injections: contradicts",
    ),
    "arms of a number": (wrong("design/arms", 3), r"design\.arms: found 3; allowed: a mapping"),
    "design of a number": (wrong("design", 3), r"design: found 3 \(int\); allowed: a mapping"),
    "a seed in run": (wrong("run/seed", 3), r"run\.seed: unknown key 'seed'"),
    "arm of a number": (wrong("design/arms/image", 3), r"design\.arms\.image: found 3"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake: str, tmp_path: Path) -> None:
    content, message = MISTAKES[mistake]
    with pytest.raises(ConfigError, match=message) as caught:
        resolve_study(write(tmp_path, content))
    assert "study.yaml" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.data.shots", r"found 'run\.data\.shots'; allowed: KEY=VALUE"),
        ("run.data.shotz=2", r"command line: run\.data\.shotz: unknown key"),
        ("seeds=[1", r"command line: seeds: '\[1' is not a YAML value"),
        ("design.arms.imge.method=pini", r"no such arm \(did you mean 'image'\?\)"),
    ],
)
def test_wrong_overrides(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_study(write(tmp_path), [override])


def test_unknown_study_names_the_nearest_shipped_one() -> None:
    with pytest.raises(
        ConfigError, match=r"no shipped study of that name \(did you mean 'injection_sites'\?\)"
    ):
        resolve_study("injection_site")


def test_arm_patterns(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert list(resolve_study(path, arms="im*").arms) == ["zero_shot", "image"]
    assert list(resolve_study(path, arms="block, image").arms) == ["zero_shot", "image", "block"]
    with pytest.raises(ConfigError, match=r"--arms: no arm matches 'imag' \(did you mean 'image'\?\)"):
        resolve_study(path, arms="imag")


keys = st.text("abc", min_size=1, max_size=2)
trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(keys, inner, min_size=1, max_size=3), max_leaves=8
)


@settings(deadline=None)
@given(st.dictionaries(keys, trees, max_size=4))
def test_key_paths_and_nested_mappings_say_the_same(tree: dict[str, Any]) -> None:
    def flatten(node: Any, path: str = "") -> dict[str, Any]:
        if not isinstance(node, dict):
            return {path: node}
        return {
            k: v for key, item in node.items() for k, v in flatten(item, f"{path}.{key}".strip(".")).items()
        }

    flat = {key: value for key, value in flatten(tree).items() if key}
    assert nest(flat, Where("test")) == tree
    words = [f"{key}={value}" for key, value in flat.items()]
    assert parse_overrides(words) == tree


def test_key_paths_say_the_same_in_every_order() -> None:
    """Whatever stands beside a whole mapping is joined with it at every level, or refused."""
    flat = {"a.b": {"c": {"d": 1}}, "a": {"b": {"c": {"e": 2}}}}
    wanted = {"a": {"b": {"c": {"d": 1, "e": 2}}}}
    assert nest(flat, Where("test")) == nest(dict(reversed(flat.items())), Where("test")) == wanted
    for words in (["run.data=digits", "run.data.shots=1"], ["run.data.shots=1", "run.data=digits"]):
        with pytest.raises(
            ConfigError, match=r"run\.data.*contradicts another key.*'digits'.*given as 'name'"
        ):
            parse_overrides(words)
    with pytest.raises(ConfigError, match=r"test: a\.b: contradicts another key"):
        nest({"a": {"b": 1}, "a.b": 2}, Where("test"))


def test_an_arm_never_loses_what_stands_beside_its_method(tmp_path: Path) -> None:
    content = copy.deepcopy(STUDY)
    content["design"]["arms"]["fast"] = {"method.optim.lr": 0.1, "method": "pini"}
    with pytest.raises(ConfigError, match=r"design\.arms\.fast\.method: contradicts"):
        arms(tmp_path, content=content)
