"""How designs derive arms: names, configurations, settings and baselines, without torch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pinikit.config.checking import Checker
from pinikit.config.loading import load_study
from pinikit.errors import ConfigError
from pinikit.plugin import registry
from pinikit.study.designs import expand
from pinikit.study.designs.factors import short_names
from pinikit.study.study import Study, resolve_study

BASE: dict[str, Any] = {
    "name": "designed",
    "run": {
        "data": {"name": "digits", "shots": 2},
        "prompt": {"template": "pini"},
        "method": {
            "name": "pini",
            "injections": {
                "text": {"site": "prompt_template"},
                "image": {"site": "image_feature", "injector": "mlp", "share": "image"},
            },
            "optim": {"epochs": 2, "lr": 0.01},
        },
    },
    "seeds": [1],
}
DOCS = Path(__file__).parents[2] / "docs" / "studies.md"


def designed(tmp_path: Path, design: str | Mapping[str, Any], *overrides: str, **changes: Any) -> Study:
    """The base study with a design, as YAML text or as a mapping."""
    content = {**BASE, "design": yaml.safe_load(design) if isinstance(design, str) else design, **changes}
    path = tmp_path / "designed.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return resolve_study(path, overrides)


def method(study: Study, arm: str) -> Any:
    return study.arms[arm].config["method"]


def refused(tmp_path: Path, message: str, design: str, *overrides: str, **changes: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        designed(tmp_path, design, *overrides, **changes)


# --- kinds ----------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    study = designed(
        tmp_path,
        """
        kind: grid
        factors:
          method.optim.lr: [0.1, 0.2, 0.3]
          method.injections.image.injector: {wide: {name: mlp, hidden: 99}, plain: free}
          size: {small: {data.views: 1, method.optim.epochs: 1}, large: {data: {views: 9}}}
        """,
    )
    wanted = itertools.product(["0.1", "0.2", "0.3"], ["wide", "plain"], ["small", "large"])
    assert list(study.arms) == [f"lr={lr}, injector={net}, size={size}" for lr, net, size in wanted]
    arm = study.arms["lr=0.2, injector=wide, size=small"].config
    assert (arm["method"]["optim"]["lr"], arm["method"]["optim"]["epochs"], arm["data"]["views"]) == (
        0.2,
        1,
        1,
    )
    assert arm["method"]["injections"]["image"]["injector"]["hidden"] == 99
    assert (
        method(study, "lr=0.3, injector=plain, size=large")["injections"]["image"]["injector"]["name"]
        == "free"
    )
    assert study.baseline is None
    assert len({run.id for run in study.runs}) == len(study.runs) == 12


def test_a_component_is_set_before_its_parameters(tmp_path: Path) -> None:
    study = designed(
        tmp_path,
        """
        kind: grid
        factors:
          method.injections.image.injector.zero_init_heads: [true, false]
          method.injections.image.injector: [mlp, cross_attention]
        """,
    )
    injector = method(study, "zero_init_heads=true, injector=cross_attention")["injections"]["image"][
        "injector"
    ]
    assert (injector["name"], injector["zero_init_heads"]) == ("cross_attention", True)
    assert len({run.id for run in study.runs}) == 4


@pytest.mark.parametrize("key", ["method.injections.image.injector", "network"])
def test_a_factor_may_depend_on_others(tmp_path: Path, key: str) -> None:
    study = designed(
        tmp_path,
        f"""
        kind: grid
        factors:
          method.injections.image.injector.hidden: {{values: [8, 16], when: {{{key}: [mlp]}}}}
          network: {{mlp: {{method.injections.image.injector: mlp}}, free: {{method.injections.image.injector: free}}}}
        """,
    )
    assert list(study.arms) == ["network=free", "hidden=8, network=mlp", "hidden=16, network=mlp"]


def test_one_factor_varies_each_alone(tmp_path: Path) -> None:
    study = designed(
        tmp_path,
        """
        kind: one_factor
        factors:
          method.optim.lr: [0.1, 0.01, 0.001]
          method.injections.text.noise: [gaussian, zero]
        arms: {zero_shot: {method: zero_shot}}
        """,
    )
    assert list(study.arms) == ["zero_shot", "base", "lr=0.1", "lr=0.001", "noise=zero"]
    assert study.baseline == "base"
    assert {arm.baseline for arm in study.arms.values()} == {"base"}
    assert method(study, "lr=0.1")["injections"] == method(study, "base")["injections"]
    assert method(study, "noise=zero")["optim"] == method(study, "base")["optim"]


def test_leave_one_out_takes_each_part_away(tmp_path: Path) -> None:
    study = designed(tmp_path, {"kind": "leave_one_out"})
    assert list(study.arms) == ["full", "without text", "without image"]
    assert list(method(study, "without text")["injections"]) == ["image"]
    assert study.arms["without text"].baseline == "full"


def test_leave_one_out_knows_the_parts_that_a_method_has_by_default(tmp_path: Path) -> None:
    run = {"method": "pini"}
    study = designed(tmp_path, {"kind": "leave_one_out", "parts": ["image"]}, run=run)
    assert list(method(study, "without image")["injections"]) == ["text"]
    assert method(study, "full") == method(designed(tmp_path, {"arms": {"pini": {}}}, run=run), "pini")


def test_leave_one_out_with_losses_and_equal_labels(tmp_path: Path) -> None:
    losses = {"text": "cross_entropy", "more": {"name": "cross_entropy", "weight": 0.5}}
    run = {**BASE["run"], "method": {**BASE["run"]["method"], "losses": losses}}
    study = designed(tmp_path, {"kind": "leave_one_out"}, run=run)
    names = ["full", "without injections.text", "without image", "without losses.text", "without more"]
    assert list(study.arms) == names
    assert list(method(study, "without losses.text")["losses"]) == ["more"]
    refused(
        tmp_path,
        r"'text' is ambiguous; allowed: injections\.text, image",
        "{kind: leave_one_out, parts: [text]}",
        run=run,
    )


def test_zip_goes_value_by_value(tmp_path: Path) -> None:
    study = designed(
        tmp_path,
        "{kind: zip, factors: {method.optim.lr: [0.1, 0.2], method.optim.epochs: {few: 3, many: 30}}}",
    )
    assert list(study.arms) == ["lr=0.1, epochs=few", "lr=0.2, epochs=many"]
    assert method(study, "lr=0.2, epochs=many")["optim"]["epochs"] == 30


# --- axes -----------------------------------------------------------------------------------------------

AXES = """
baseline: zero_shot
arms: {zero_shot: {method: zero_shot}, pini: {}}
axes: {data.shots: [1, 4], length: {short: {method.optim.epochs: 1}, long: {method.optim.epochs: 3}}}
"""


def test_axes_repeat_every_arm(tmp_path: Path) -> None:
    study = designed(tmp_path, AXES)
    assert list(study.arms)[:3] == [
        "zero_shot, shots=1, length=short",
        "pini, shots=1, length=short",
        "zero_shot, shots=1, length=long",
    ]
    arm = study.arms["pini, shots=4, length=long"]
    assert (arm.config["data"]["shots"], arm.config["method"]["optim"]["epochs"]) == (4, 3)
    assert (arm.series, arm.setting) == ("pini", {"data.shots": "4", "length": "long"})
    assert arm.baseline == "zero_shot, shots=4, length=long"
    assert (study.baseline, study.axes) == (
        "zero_shot",
        {"data.shots": ("1", "4"), "length": ("short", "long")},
    )
    assert study.notes == (), "the baseline is the same at both lengths, which needs no telling"
    assert len({run.id for run in study.runs}) == 6


def test_axes_go_with_any_design(tmp_path: Path) -> None:
    study = designed(
        tmp_path, "{kind: one_factor, factors: {method.optim.lr: [0.1, 0.2]}, axes: {data.views: [1, 2]}}"
    )
    assert list(study.arms)[3:] == ["base, views=2", "lr=0.1, views=2", "lr=0.2, views=2"]
    assert study.arms["lr=0.2, views=2"].baseline == "base, views=2"


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ("pini", ["pini, shots=1", "pini, shots=4"]),
        ("pini, shots=4", ["pini, shots=4"]),
        ("pini, shots=4, other, shots=1", ["other, shots=1", "pini, shots=4"]),
        ("*, shots=1", ["pini, shots=1", "other, shots=1"]),
        ("o*,pin?", ["pini, shots=1", "other, shots=1", "pini, shots=4", "other, shots=4"]),
    ],
)
def test_patterns_mean_arms_and_series(tmp_path: Path, patterns: str, found: list[str]) -> None:
    design = "{baseline: zero, arms: {zero: {method: zero_shot}, pini: {}, other: {data.views: 1}}, axes: {data.shots: [1, 4]}}"
    path = designed(tmp_path, design).file
    study = resolve_study(path, arms=patterns)
    assert [arm for arm in study.arms if study.arms[arm].series != "zero"] == found
    assert {arm.baseline for arm in study.arms.values()} == {
        f"zero, shots={shots}" for arm in found for shots in arm[-1]
    }


# --- overrides, defaults, expectations ------------------------------------------------------------------


def test_the_command_line_reaches_designs(tmp_path: Path) -> None:
    study = designed(
        tmp_path,
        AXES,
        "design.axes.length=null",
        "design.axes.data.shots=[2, 3]",
        "design.arms.pini.method.optim.lr=0.5",
        "run.method.optim.epochs=7",
    )
    assert list(study.arms) == ["zero_shot, shots=2", "pini, shots=2", "zero_shot, shots=3", "pini, shots=3"]
    assert method(study, "pini, shots=3")["optim"]["lr"] == 0.5
    assert method(study, "pini, shots=3")["optim"]["epochs"] == 7
    grid = "{kind: grid, factors: {method.optim.lr: [1, 2]}}"
    assert list(designed(tmp_path, grid, "design.factors.method.optim.lr=[3, 4]").arms) == ["lr=3", "lr=4"]
    refused(tmp_path, "the study names no such arm", grid, "design.arms.lr.data.shots=1")


def test_defaults_lie_under_a_study(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "first.yaml").write_text(
        "{name: first, question: 'Why?', run: {data: {shots: 7, views: 1}}, seeds: [4], design: {arms: {one: {}}}}"
    )
    (tmp_path / "second.yaml").write_text(
        "{name: second, defaults: [deep/first.yaml], run: {data: {shots: 8}}}"
    )
    study = designed(tmp_path, "{arms: {two: {}}}", defaults=["second.yaml"], run={"method": "zero_shot"})
    assert list(study.arms) == ["one", "two"]
    data = study.arms["two"].config["data"]
    assert (data["shots"], data["views"], study.question) == (8, 1, "Why?")
    assert (study.name, study.seeds) == ("designed", (1,))
    other = designed(tmp_path, "{kind: leave_one_out}", defaults=["second.yaml"], run={"method": "pini"})
    assert list(other.arms) == ["full", "without text", "without image"], "another kind replaces the design"
    shipped = designed(tmp_path, {}, defaults=["injection_sites"], run={"data": {"shots": 1}})
    assert list(shipped.arms) == list(resolve_study("injection_sites").arms)
    assert {arm.config["data"]["shots"] for arm in shipped.arms.values()} == {1}


def test_expectations_belong_to_arms(tmp_path: Path) -> None:
    number = {"value": 77.0, "tolerance": 1, "protocol": "CoOp", "source": "Table 2"}
    expect = {"pini": number, "*, shots=4, *": [{**number, "metric": "nll"}, number]}
    study = designed(tmp_path, AXES, expect=expect)
    assert {arm: [item.metric for item in items] for arm, items in study.expect.items()} == {
        "pini, shots=1, length=short": ["accuracy"],
        "pini, shots=1, length=long": ["accuracy"],
        "zero_shot, shots=4, length=short": ["nll", "accuracy"],
        "pini, shots=4, length=short": ["accuracy", "nll", "accuracy"],
        "zero_shot, shots=4, length=long": ["nll", "accuracy"],
        "pini, shots=4, length=long": ["accuracy", "nll", "accuracy"],
    }
    assert study.expect["pini, shots=1, length=short"][0].tolerance == 1.0


def test_equal_arms_are_told(tmp_path: Path) -> None:
    study = designed(tmp_path, "{arms: {one: {}, same: {data.shots: 2}, other: {data.shots: 3}}}")
    assert study.notes == ("equal arms, whose runs are the same: 'one', 'same'",)


def test_short_names() -> None:
    keys = [
        "method.optim.lr",
        "method.injections.text.noise",
        "method.injections.image.noise",
        "data.name",
        "lr",
    ]
    assert short_names(keys) == {
        "method.optim.lr": "optim.lr",
        "method.injections.text.noise": "text.noise",
        "method.injections.image.noise": "image.noise",
        "data.name": "data",
        "lr": "lr",
    }


# --- what is refused ------------------------------------------------------------------------------------

GRID = "{kind: grid, factors: {%s}}"
MISTAKES = {
    "kind": ("{kind: gird}", r"design\.kind: found 'gird' \(did you mean 'grid'\?\); allowed: arms, grid"),
    "no factors": ("{kind: grid}", r"design\.factors: found none; a design of kind 'grid' needs at least one"),
    "factors of arms": ("{factors: {data.shots: [1]}}", r"a design of kind 'arms' has none; allowed: grid"),
    "parts of a grid": (
        "{kind: grid, factors: {data.shots: [1]}, parts: [text]}",
        r"design\.parts: a design of kind 'grid' has none; allowed: leave_one_out",
    ),
    "misspelt path": (
        GRID % "metod.optim.lr: [1]",
        r"'metod\.optim\.lr' is no key path of 'run' \(did you mean 'method'\?\), so it is a label",
    ),
    "misspelt end of a path": (GRID % "data.shotz: [1]", r"design\.factors: data\.shotz: unknown key 'shotz'"),
    "unknown component": (
        GRID % "method.injections.image.injector: [mpl]",
        r"method\.injections\.image\.injector\.name: unknown injector 'mpl' \(did you mean 'mlp'\?\)",
    ),
    "wrong type": (GRID % "method.optim.lr: [fast]", r"design\.factors: method\.optim\.lr: found 'fast' \(str\)"),
    "parameter of another component": (
        GRID % "method.injections.image.injector: [free], method.injections.image.injector.hidden: [1]",
        r"injector\.hidden: unknown key 'hidden'",
    ),
    "a single value": (GRID % "data.shots: 4", r"design\.factors\.data\.shots: found 4; allowed: a list of values"),
    "no value": (GRID % "data.shots: []", r"design\.factors\.data\.shots: found no value"),
    "a value twice": (GRID % "data.shots: [1, 2, 1]", r"data\.shots: 1 stands more than once"),
    "label that changes nothing": (GRID % "size: {small: {}}", r"size\.small: changes nothing"),
    "label of a number": (GRID % "size: {small: 3}", r"size\.small: found 3; allowed: a mapping of key paths"),
    "beside values": (GRID % "data.shots: {values: [1], if: {}}", r"unknown key 'if' beside 'values'; allowed: when"),
    "when of a number": (GRID % "data.shots: {values: [1], when: 3}", r"when: found 3; allowed: a mapping"),
    "when of nothing": (
        GRID % "data.shots: {values: [1], when: {methd.name: pini}}",
        r"when: found 'methd\.name' .*allowed: a key path of 'run', or another factor",
    ),
    "when never": (
        GRID % "data.shots: {values: [1, 2], when: {method: zero_shot}}, data.views: [1, 2]",
        r"data\.shots: its 'when' holds in no arm",
    ),
    "when on an axis": (
        "{axes: {data.shots: {values: [1], when: {method: pini}}}}",
        r"design\.axes\.data\.shots\.when: an axis has no condition",
    ),
    "undone": (
        GRID % "data.shots: [1, 2], size: {a: {data.shots: 3}, b: {data.shots: 4}}",
        r"data\.shots: its value '1' is undone by another factor",
    ),
    "too many": (
        GRID % ", ".join(f"f{i}: {{a: {{data.views: 1}}, b: {{data.views: 2}}}}" for i in range(17)),
        r"design: has 131072 arms; allowed: up to 100000",
    ),
    "zip of different lengths": (
        "{kind: zip, factors: {data.shots: [1, 2], data.views: [1, 2, 3]}}",
        r"data\.views has 3 values, data\.shots has 2; allowed for kind 'zip': equal numbers",
    ),
    "zip with a condition": (
        "{kind: zip, factors: {data.shots: {values: [1], when: {method: pini}}}}",
        r"factors of kind 'zip' have no condition",
    ),
    "one factor as it is": (
        "{kind: one_factor, factors: {data.shots: [2]}}",
        r"data\.shots: has no value but that of 'run'",
    ),
    "one factor without condition": (
        "{kind: one_factor, factors: {data.shots: {values: [3], when: {method: zero_shot}}}}",
        r"data\.shots: its 'when' does not hold in the base configuration",
    ),
    "unknown part": (
        "{kind: leave_one_out, parts: [imag]}",
        r"design\.parts: 'imag' is no part of the method \(did you mean 'image'\?\); allowed: text, image, classify",
    ),
    "part twice": ("{kind: leave_one_out, parts: [image, image]}", r"allowed: each part once"),
    "parts of a number": ("{kind: leave_one_out, parts: 3}", r"design\.parts: found 3; allowed: a list of labels"),
    "part that changes nothing": ("{kind: leave_one_out, parts: {a: {}}}", r"'a' changes nothing"),
    "baseline of a grid": (
        "{kind: grid, baseline: lr=1, factors: {method.optim.lr: [2, 3]}}",
        r"design\.baseline: found 'lr=1' \(did you mean .*allowed: lr=2, lr=3",
    ),
    "a name twice": (
        "{kind: one_factor, arms: {base: {}}, factors: {data.shots: [1]}}",
        r"two arms have the name 'base'",
    ),
    "axis and factor": (
        "{kind: grid, factors: {data.shots: [1]}, axes: {data.shots: [2]}}",
        r"design\.axes: 'data\.shots' is a factor, too",
    ),
    "arm against an axis": (
        "{arms: {one: {data.shots: 3}}, axes: {data.shots: [1, 2]}}",
        r"arm 'one': sets what the axis 'data\.shots' sets",
    ),
    "arm that replaces what an axis sets a parameter of": (
        "{arms: {one: {method.injections.image.noise: sigma_only}}, "
        "axes: {method.injections.image.noise.std: [softplus, sign_free]}}",
        r"arm 'one': sets what the axis 'method\.injections\.image\.noise\.std' sets",
    ),
    "arm at another index": (
        "{arms: {one: {method.injections.image.site.index: 1}}, "
        "axes: {method.injections.image.site: [image_block.3, image_block.4]}}",
        r"arm 'one': sets what the axis 'method\.injections\.image\.site' sets",
    ),
    "arm at another site of that kind": (
        "{arms: {one: {method.injections.image.site: image_block.1}}, "
        "axes: {method.injections.image.site: [image_block.3, image_block.4]}}",
        r"arm 'one': sets what the axis 'method\.injections\.image\.site' sets",
    ),
    "misspelt label that is taken away": (
        "{arms: {one: {method.injections.imgae: null}}}",
        r"design\.arms\.one\.method\.injections\.imgae: found null .*did you mean 'image'\?\); allowed: text, image",
    ),
    "misspelt label of a part": (
        "{kind: leave_one_out, parts: {it: {method.losses.clasify: null}}}",
        r"design\.parts\.it\.method\.losses\.clasify: found null .*did you mean 'classify'\?\); allowed: classify",
    ),
    "part that is as it was": (
        "{kind: leave_one_out, parts: {few: {data.shots: 2}}}", r"design\.parts: 'few' changes nothing of the full"
    ),
    "misspelt axis": ("{axes: {data.shot: [1]}}", r"design\.axes: data\.shot: unknown key 'shot'"),
    "impossible": ("{impossible: ignore}", r"design\.impossible: found 'ignore'; allowed: auto, drop, error"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_designs_are_named(mistake: str, tmp_path: Path) -> None:
    design, message = MISTAKES[mistake]
    with pytest.raises(ConfigError, match=message) as caught:
        designed(tmp_path, design)
    assert "designed.yaml" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


NUMBER = {"value": 1.0, "tolerance": 1.0, "protocol": "p", "source": "s"}
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "defaults of a text": ({"defaults": "x.yaml"}, r"defaults: found 'x\.yaml'; allowed: a list of study files"),
    "defaults that are missing": ({"defaults": ["injection_site"]}, r"defaults: study 'injection_site'.*did you mean"),
    "defaults in a circle": ({"defaults": ["designed.yaml"]}, r"defaults: lead in a circle: designed\.yaml → des"),
    "expectation of no arm": ({"expect": {"pinni": NUMBER}}, r"expect: no arm matches 'pinni'.*did you mean 'pini'"),
    "expectation without source": (
        {"expect": {"pini": {k: v for k, v in NUMBER.items() if k != "source"}}},
        r"expect\.pini\.0\.source: missing",
    ),
    "expectation with another key": ({"expect": {"pini": {**NUMBER, "tol": 1}}}, r"expect\.pini\.tol: unknown key 'tol'"),
    "expectation of a number": ({"expect": {"pini": 77}}, r"expect\.pini\.0: found 77 \(int\); allowed: a mapping"),
    "negative tolerance": ({"expect": {"pini": {**NUMBER, "tolerance": -1}}}, r"tolerance: found -1\.0; allowed: 0 or"),
    "label with a dot": (
        {"run": {"method": {"name": "pini", "injections": {"a.b": {"site": "pixels"}}}}},
        r"injections: found the label 'a\.b'; allowed: a text without dots",
    ),
    "very long name": ({"name": "x" * 200}, r"name: found 'x+…; allowed: letters, digits, .* 100 at most"),
    "number out of range": ({"run": {"method": {"name": "pini", "optim": {"lr": 10**400}}}}, r"optim\.lr: found 1000"),
    "odd index": (
        {"run": {"method": {"name": "pini", "injections": {"a": {"site": "image_block.²"}}}}},
        r"site\.index: found '²'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", OTHERS)
def test_other_mistakes_are_named(mistake: str, tmp_path: Path) -> None:
    changes, message = OTHERS[mistake]
    refused(tmp_path, message, "{arms: {pini: {}}}", **changes)


def test_defaults_are_for_files(tmp_path: Path) -> None:
    refused(
        tmp_path, r"command line: defaults: allowed in study files only", "{}", "defaults=[injection_sites]"
    )


# --- documentation --------------------------------------------------------------------------------------


def documented() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("index", range(len(documented())))
def test_the_documentation_s_examples_are_studies(tmp_path: Path, index: int) -> None:
    content = yaml.safe_load(documented()[index])
    if "expect" in content:
        content["design"] = yaml.safe_load("{arms: {pini: {}}, axes: {data.shots: [4]}}")
    path = tmp_path / "example.yaml"
    path.write_text(yaml.safe_dump({**BASE, **content}, sort_keys=False), encoding="utf-8")
    if "imagenet" in documented()[index]:  # which is not here
        checker = Checker(registry())
        (arm,) = expand(load_study(path, [], checker), checker).values()
        assert set(arm.config["evaluate"]["other_data"]) == {"v2", "sketch", "mine"}
        return
    study = resolve_study(path, ["seeds=[1]"])
    assert len(study.arms) > 1 or study.expect
    assert len({run.id for run in study.runs}) == len(study.runs)


def test_arms_may_do_without_what_an_axis_sets(tmp_path: Path) -> None:
    """Other parameters of the axis's component, the same value again, or no such place at all."""
    arms = {
        "more": {"method.injections.image.noise.std": "exp", "method.injections.image.injector.hidden": 3},
        "again": {"method.injections.image.noise": "gaussian"},
        "without": {"method.injections.image": None},
        "zero_shot": {"method": "zero_shot"},
    }
    axes = {
        "method.injections.image.site": ["image_feature", "image_block.3"],
        "method.injections.image.noise": ["gaussian"],
    }
    study = designed(tmp_path, {"arms": arms, "axes": axes})
    assert len(study.arms) == 8
    found = method(study, "more, site=image_block.3, noise=gaussian")["injections"]["image"]
    assert (found["site"]["index"], found["noise"]["std"]) == (3, "exp")


def test_null_takes_away_what_is_there_at_some_value_of_an_axis(tmp_path: Path) -> None:
    sides = {"text": {"method.injections.image": None}, "image": {"method.injections.text": None}}
    study = designed(tmp_path, {"arms": {"bare": {"method.injections.text": None}}, "axes": {"side": sides}})
    assert list(method(study, "bare, side=image")["injections"]) == ["image"]


def test_null_takes_one_of_the_default_parts_away_and_leaves_the_others(tmp_path: Path) -> None:
    arms = {"full": {}, "less": {"method.injections.text": None}}
    for run, given in (({"method": "pini"}, []), ({"method": {"name": "zero_shot"}}, ["run.method=pini"])):
        study = designed(tmp_path, {"arms": arms}, *given, run={**BASE["run"], **run})
        assert list(method(study, "full")["injections"]) == ["text", "image"]
        assert list(method(study, "less")["injections"]) == ["image"]
    refused(
        tmp_path, "found null for a label that is not there", {"arms": arms}, "run.method.losses.clasify=null"
    )
