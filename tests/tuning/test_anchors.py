"""What every search evaluates, whatever its space is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from made_up import make_result
from test_tune_study import RUN, tune_study
from yaml import safe_load

from pinikit.config.checking import Checker
from pinikit.plugin import registry
from pinikit.tuning.anchors import fixed_anchors
from pinikit.tuning.best import best_study

SEARCH = {"optim.lr": "auto"}


def anchors(folder: Path, method: Any) -> tuple[dict[str, Any], list[str]]:
    base = tune_study(folder, SEARCH, run={**RUN, "method": method}).base
    found, notes = fixed_anchors(base, lambda config: None, Checker(registry()))
    return dict(found), notes


def test_pini_is_an_anchor_where_the_base_has_other_injections(tmp_path: Path) -> None:
    found, notes = anchors(tmp_path, RUN["method"])
    assert list(found) == ["zero_shot", "pini"]
    assert not notes
    assert (found["zero_shot"]["method"], found["zero_shot"]["prompt"]["template"]) == (
        {"name": "zero_shot"},
        "plain",
    )
    method = found["pini"]["method"]
    assert {label: item["site"]["name"] for label, item in method["injections"].items()} == {
        "text": "prompt_template", "image": "image_feature",
    }  # fmt: skip
    assert method["injections"]["text"]["noise"]["std"] == "sign_free"
    assert method["optim"]["epochs"] == 20  # as in the base
    assert found["pini"]["prompt"]["template"] == "pini"


def test_where_the_base_is_pini_it_is_none(tmp_path: Path) -> None:
    renamed = {
        "a": {"site": "image_feature", "injector": "cross_attention", "share": "image"},
        "b": {"site": "prompt_template", "noise": {"name": "gaussian", "std": "sign_free"}},
    }
    for given in ({}, {"injections": renamed}):
        found, notes = anchors(tmp_path, {"name": "pini", **given})
        assert (list(found), notes) == (["zero_shot"], [])


def test_pini_stands_in_for_other_methods_and_is_missed_where_it_cannot_be_built(tmp_path: Path) -> None:
    base = tune_study(tmp_path, SEARCH).base
    other = {**base, "method": {"name": "of_a_plug_in", "optim": {"name": "own", "epochs": 7, "lr": 0.5}}}
    found, notes = fixed_anchors(other, lambda config: None, Checker(registry()))
    optim = found["pini"]["method"]["optim"]
    assert (optim["name"], optim["epochs"], optim["lr"]) == ("sgd", 7, 1e-3)
    found, notes = fixed_anchors(other, lambda config: "there are no tokens", Checker(registry()))
    assert list(found) == ["zero_shot"]
    assert notes == [
        "PiNI is not among the trials: the base has other injections, and here there are no tokens"
    ]


def test_pini_is_measured_again_whatever_its_rank(tmp_path: Path) -> None:
    result = make_result(tmp_path, trials=12)
    last = [row for row in result.ranked if not row.label][-1]
    rows = tuple(replace(row, label="pini") if row.number == last.number else row for row in result.trials)
    arms = safe_load(best_study(replace(result, trials=rows)))["design"]["arms"]
    assert list(arms) == ["base", "zero_shot", *(row.name for row in result.best()), "pini"]
