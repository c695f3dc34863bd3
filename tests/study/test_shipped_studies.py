"""The studies that come with pinikit: each is valid, fits the embedded backbone, and says what it asks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pinikit.config.loading import shipped_studies
from pinikit.study.checks import check_runs
from pinikit.study.run import Workshop
from pinikit.study.study import resolve_study
from pinikit.tuning.study import resolve_tune

ROOT = Path(__file__).parents[2]
SEARCHES = {"tune"}
SHIPPED = [name for name in shipped_studies() if "/" not in name and name not in SEARCHES]
ISSUE = {
    "injection_sites",
    "noise_distributions",
    "injectors",
    "losses",
    "mean_versus_variance",
    "test_time_noise",
    "shots",
    "prompt_length",
    "leave_one_out",
}


def test_all_are_there_and_in_the_readme() -> None:
    assert set(SHIPPED) >= ISSUE
    named = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {*SHIPPED, *SEARCHES} <= set(named)
    assert set(shipped_studies()) >= SEARCHES


@pytest.mark.parametrize("name", sorted(SEARCHES))
def test_every_search_begins_with_pini(name: str) -> None:
    """On the default backbone and data, with the method's own injections."""
    study = resolve_tune(name, ["run.device=cpu"])
    recipe = resolve_study("leave_one_out").arms["full"].config["method"]
    assert study.name == name
    assert study.question.endswith("?")
    assert study.base["method"]["injections"] == recipe["injections"]
    assert (study.base["backbone"]["name"], study.base["data"]["name"]) == ("glyph", "digits")
    assert not set(study.seeds) & set(study.tune.fresh_seeds)


@pytest.fixture(scope="module")
def workshop() -> Workshop:
    """The backbone is loaded once for all studies."""
    return Workshop()


@pytest.mark.parametrize("name", SHIPPED)
def test_every_arm_can_be_built(name: str, workshop: Workshop) -> None:
    """On the default backbone and data, which need no download; nothing is trained."""
    study = resolve_study(name, ["run.device=cpu"])
    checked = check_runs(study, study.runs, workshop)
    assert study.name == name
    assert study.question.endswith("?")
    assert set(checked.footprints) == set(study.arms)
    assert len(study.seeds) >= 3
    assert {arm.baseline for arm in study.arms.values()} <= set(study.arms)
    assert not any("equal arms" in note for note in study.notes)
    assert all((run.backbone.name, run.dataset.name) == ("glyph", "digits") for run in study.runs)
