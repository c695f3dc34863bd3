"""Which runs are trained together."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinikit.components.contracts import Footprint
from pinikit.errors import ConfigError
from pinikit.study.groups import MEMORY, group_runs
from pinikit.study.study import Run, Study, resolve_study

STUDY = """\
name: groups
run:
  data: {name: digits, shots: 2}
  device: cpu
  method:
    name: pini
    optim: {epochs: 2}
design:
  baseline: zero_shot
  arms:
    zero_shot: {method: {name: zero_shot}}
    pini: {}
    faster: {method.optim.lr: 0.1}
    wider: {method.injections: {text: {site: prompt_template, injector: {name: free, init_std: 0.5}}}}
    narrower: {method.injections: {text: {site: prompt_template, injector: {name: free, init_std: 0.1}}}}
    longer: {method.optim.epochs: 3}
    few: {data.shots: 1}
seeds: [2, 1, 3]
"""
ONE = Footprint("image_feature", "text tower", 10, 1000)


def resolved(folder: Path, text: str = STUDY) -> Study:
    path = folder / "groups.yaml"
    path.write_text(text)
    return resolve_study(path)


def footprints(study: Study, **changes: Footprint) -> dict[str, Footprint]:
    nothing = Footprint("image_feature", "nothing trained", 0)
    return {arm: nothing if arm == "zero_shot" else ONE for arm in study.arms} | changes


def names(groups: list[tuple[Run, ...]]) -> list[set[tuple[str, int]]]:
    return [{(run.arm, run.seed) for run in group} for group in groups]


def seeds_of(*arms: str) -> set[tuple[str, int]]:
    return {(arm, seed) for arm in arms for seed in (1, 2, 3)}


def test_runs_that_differ_in_seeds_and_numbers_are_a_group(tmp_path: Path) -> None:
    study = resolved(tmp_path)
    found = names(group_runs(study.runs, footprints(study)))
    assert found == [
        {("zero_shot", 2)},
        {("zero_shot", 1)},
        {("zero_shot", 3)},
        seeds_of("pini", "faster"),
        seeds_of("wider", "narrower"),
        seeds_of("longer"),
        seeds_of("few"),
    ]


def test_the_order_of_the_study_does_not_matter(tmp_path: Path) -> None:
    study = resolved(tmp_path)
    groups = {tuple(run.id for run in group) for group in group_runs(study.runs, footprints(study))}
    turned = group_runs(study.runs[::-1], footprints(study))
    assert {tuple(run.id for run in group) for group in turned} == groups


@pytest.mark.parametrize(("fuse", "largest"), [("off", 1), ("1", 1), ("2", 2), ("4", 4), ("100", 6)])
def test_groups_are_bounded(tmp_path: Path, fuse: str, largest: int) -> None:
    study = resolved(tmp_path)
    groups = group_runs(study.runs, footprints(study), fuse)
    assert max(map(len, groups)) == largest
    assert sorted(run.id for group in groups for run in group) == sorted(run.id for run in study.runs)


def test_auto_bounds_memory(tmp_path: Path) -> None:
    study = resolved(tmp_path)
    half = Footprint("image_feature", "text tower", 10, MEMORY["cpu"] // 2)
    huge = Footprint("image_feature", "text tower", 10, MEMORY["cpu"] * 2)
    groups = group_runs(study.runs, footprints(study, longer=half, few=huge))
    sizes = {arm: sorted(len(group) for group in groups if group[0].arm == arm) for arm in ("longer", "few")}
    assert sizes == {"longer": [1, 2], "few": [1, 1, 1]}


def test_a_method_without_fused_arms_runs_alone(tmp_path: Path) -> None:
    study = resolved(tmp_path)
    alone = Footprint("image_feature", "features only", 10)
    groups = group_runs(study.runs, footprints(study, longer=alone))
    assert [len(group) for group in groups if group[0].arm == "longer"] == [1, 1, 1]


def test_equal_arms_are_one_run(tmp_path: Path) -> None:
    study = resolved(tmp_path, STUDY.replace("pini: {}", "pini: {}\n    same: {}"))
    ids = [run.id for group in group_runs(study.runs, footprints(study)) for run in group]
    assert len(ids) == len(set(ids)) == len({run.id for run in study.runs}) < len(study.runs)


@pytest.mark.parametrize("fuse", ["0", "-1", "on", "1.5", ""])
def test_another_word_is_refused(tmp_path: Path, fuse: str) -> None:
    study = resolved(tmp_path)
    with pytest.raises(ConfigError, match=r"--fuse: found '.*'; allowed: auto, off, or a number of runs"):
        group_runs(study.runs, footprints(study), fuse)
