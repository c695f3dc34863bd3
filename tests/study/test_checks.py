"""Arms that cannot be built: dropped with the reason, or refused; and what is built for many arms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_designs import designed

from pinikit import api
from pinikit.components.methods.pini import Pini
from pinikit.errors import ConfigError
from pinikit.study.checks import Checked, check_runs, recall_dropped
from pinikit.study.groups import group_runs
from pinikit.study.index import write_index
from pinikit.study.run import Workshop
from pinikit.study.store import Store
from pinikit.study.study import Study

GRID = """
kind: grid
arms: {zero_shot: {method: zero_shot}}
baseline: zero_shot
factors:
  method.injections.image.site: [image_block.middle, image_block.77, text_feature]
  method.injections.image.injector: [mlp, cross_attention_spatial]
  method.injections.image.share: [batch]
"""
POSSIBLE = ["zero_shot"] + [
    f"site={site}, injector={net}, share=batch"
    for site, net in (
        ("image_block.middle", "mlp"),
        ("image_block.middle", "cross_attention_spatial"),
        ("text_feature", "mlp"),
    )
]
WORKSHOP = Workshop()


def checked(study: Study) -> Checked:
    return check_runs(study, study.runs, WORKSHOP)


def test_a_grid_drops_what_is_impossible(tmp_path: Path) -> None:
    study = designed(tmp_path, GRID)
    found = checked(study)
    left = study.without(found.dropped)
    assert list(left.arms) == POSSIBLE == list(found.footprints)
    assert {run.arm for run in left.runs} == set(POSSIBLE)
    reasons = {arm: reason.partition("site: ")[2] or reason for arm, reason in left.dropped.items()}
    assert "has blocks 0 to 3" in reasons["site=image_block.77, injector=mlp, share=batch"]
    assert (
        "which the site 'text_feature' does not have"
        in (reasons["site=text_feature, injector=cross_attention_spatial, share=batch"])
    )
    assert len(reasons) == 3


def test_it_is_an_error_where_the_study_says_so(tmp_path: Path) -> None:
    study = designed(tmp_path, GRID, "design.impossible=error")
    with pytest.raises(ConfigError) as caught:
        checked(study)
    assert len(str(caught.value).splitlines()) == 3
    one = "{kind: one_factor, factors: {method.injections.image.site: [image_block.77]}, arms: {x: {}}}"
    with pytest.raises(ConfigError, match="has blocks 0 to 3"):
        checked(designed(tmp_path, one))
    assert list(checked(designed(tmp_path, one, "design.impossible=drop")).dropped) == ["site=image_block.77"]


def test_a_label_that_torch_uses_is_refused(tmp_path: Path) -> None:
    run = {"method": {"name": "pini", "injections": {"training": {"site": "image_feature"}}}}
    with pytest.raises(ConfigError, match=r"found the label 'training', which torch uses itself"):
        checked(designed(tmp_path, "{arms: {one: {}}}", run=run))


def test_the_baseline_is_never_dropped(tmp_path: Path) -> None:
    baseline = "design.baseline='site=image_block.77, injector=mlp, share=batch'"
    with pytest.raises(
        ConfigError, match=r"arm 'site=image_block\.77, injector=mlp, share=batch'.*blocks 0 to 3"
    ):
        checked(designed(tmp_path, GRID, baseline))


def test_an_arm_with_a_published_number_is_never_dropped(tmp_path: Path) -> None:
    number = {"value": 1, "tolerance": 1, "protocol": "p", "source": "s"}
    with pytest.raises(ConfigError, match="has blocks 0 to 3"):
        checked(designed(tmp_path, GRID, expect={"*77, injector=mlp*": number}))


def test_a_study_of_impossible_arms_is_an_error(tmp_path: Path) -> None:
    design = "design.factors.method.injections.image.site=[image_block.77, image_block.88]"
    with pytest.raises(ConfigError, match=r"design: no arm is possible\ndropped .*77.*\n?.*88"):
        checked(designed(tmp_path, GRID, design))


def test_what_was_dropped_is_remembered_without_torch(tmp_path: Path) -> None:
    study = designed(tmp_path, GRID)
    left = study.without(checked(study).dropped)
    store = Store(tmp_path / "runs")
    write_index(left, store)
    assert recall_dropped(study, store).dropped == left.dropped
    assert list(recall_dropped(study, store).arms) == POSSIBLE
    other = designed(tmp_path, GRID, "run.data.shots=1")
    assert recall_dropped(other, store).dropped == {}, "other runs, which nobody has looked at"
    assert recall_dropped(designed(tmp_path, GRID, "design.impossible=error"), store).dropped == {}
    code = (
        "import sys; from pinikit.study.study import resolve_study; from pinikit.study.store import Store\n"
        "from pinikit.study.checks import recall_dropped\n"
        f"study = recall_dropped(resolve_study({str(study.file)!r}), Store({str(tmp_path / 'runs')!r}))\n"
        "print(len(study.dropped), 'torch' in sys.modules)"
    )
    designed(tmp_path, GRID)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3 False"


def test_one_model_is_built_for_all_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    footprint = Pini.footprint
    monkeypatch.setattr(Pini, "footprint", lambda *of: built.append(of) or footprint(*of))
    design = {
        "kind": "grid",
        "factors": {
            "method.optim.lr": [0.001 * (1 + index) for index in range(60)],
            "method.injections.image.injector": ["mlp", "free"],
        },
    }
    study = designed(tmp_path, design, seeds=[1, 2, 3])
    found = checked(study)
    assert len(found.footprints) == 120
    assert len(built) == 2
    groups = group_runs(study.runs, found.footprints)
    assert sum(map(len, groups)) == 360
    assert max(map(len, groups)) == 64


def test_a_refused_number_does_not_condemn_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only the whole model sees it: the first arm of a shape stands for others if it passes."""
    footprint = Pini.footprint

    def picky(self: Any, *of: Any) -> Any:
        if self._optim.lr < 0.0025:
            raise ConfigError(f"run.method.optim.lr: found {self._optim.lr}; allowed: 0.0025 or more")
        return footprint(self, *of)

    monkeypatch.setattr(Pini, "footprint", picky)
    design = {"kind": "grid", "factors": {"method.optim.lr": [0.001, 0.002, 0.003, 0.004]}}
    found = checked(designed(tmp_path, design))
    assert list(found.dropped) == ["lr=0.001", "lr=0.002"]
    assert list(found.footprints) == ["lr=0.003", "lr=0.004"]
    injector = "method.injections.text.injector"
    numbers = {"kind": "grid", "factors": {f"{injector}.init_std": [-1.0, 0.1]}}
    assert (
        list(checked(designed(tmp_path, {**numbers, "impossible": "drop"})).footprints)[-1] == "init_std=0.1"
    )


def test_running_tells_what_is_dropped_and_does_not_look_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pinikit.reporting.write_report", lambda result: [])  # which takes most of the time
    told: list[str] = []

    class Listening(api.Reporter):
        def message(self, text: str) -> None:
            told.append(text)

    design = GRID.replace("text_feature", "image_feature").replace("image_block.middle, ", "")
    path = designed(tmp_path, design).file
    words = ["run.method.optim.epochs=1", "run.evaluate.noise=[mean]", "design.arms.zero_shot.data.shots=1"]
    result = api.run_study(path, words, runs=tmp_path / "runs", reporter=Listening())
    dropped = [text for text in told if text.startswith("dropped ")]
    assert len(dropped) == 1, told
    assert dropped[0].startswith("dropped 2 arms 'site=image_block.77, injector=mlp, share=batch', 'site=")
    assert len(result.results) == len(result.study.runs) == 3
    assert len(result.study.dropped) == 2
    again = api.run_study(path, words, runs=tmp_path / "runs")
    assert (list(again.study.arms), again.study.dropped) == (list(result.study.arms), result.study.dropped)
