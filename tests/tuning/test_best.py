"""What comes of a search: ranks, the study of the best arms, importances, the answer, and the files."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import accuracy, make_result, measured_again

from pinikit.study.statistics import headline_mode
from pinikit.study.study import resolve_study
from pinikit.tuning.best import best_study, searched
from pinikit.tuning.confirm import Confirmation, answer, confirmed
from pinikit.tuning.export import trials_csv
from pinikit.tuning.request import Request
from pinikit.tuning.results import TuneResult, load_result


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    return make_result(tmp_path_factory.mktemp("search"))


# --- ranks ------------------------------------------------------------------------------------------------


def test_trials_are_ranked_by_their_values(result: TuneResult) -> None:
    values = [row.values[0] for row in result.ranked]
    assert values == sorted(values, reverse=True)
    assert result.count("complete") + result.count("pruned") + result.count("failed") == 40
    assert [row.label for row in result.best()] == ["", ""]
    assert result.base is not None
    assert result.base.config == result.base_config


def test_equal_configurations_count_once(result: TuneResult) -> None:
    top = result.ranked[0]
    copied = replace(result, trials=(*result.trials, replace(top, number=99, same_as=top.number)))
    assert [row.number for row in copied.ranked] == [row.number for row in result.ranked]


def test_less_is_better_where_it_is(tmp_path: Path) -> None:
    found = make_result(tmp_path, ["tune.metrics=[nll]"], trials=12)
    assert found.ranked[0].values[0] == min(row.values[0] for row in found.complete)


def test_the_front_of_several_metrics_goes_first(tmp_path: Path) -> None:
    found = make_result(tmp_path, ["tune.metrics=[accuracy,seconds]"], trials=22)
    front = set(found.front)
    rows = {row.number: row.values for row in found.complete}
    for number, (value, seconds) in rows.items():
        beaten = any(v >= value and s <= seconds and (v, s) != (value, seconds) for v, s in rows.values())
        assert beaten == (number not in front)
    assert {row.number for row in found.ranked[: len(front)]} == front
    assert found.ranked[0].values[0] == max(rows[number][0] for number in front)


# --- best.yaml --------------------------------------------------------------------------------------------


def test_the_study_has_the_trials_configurations(result: TuneResult, tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(best_study(result), encoding="utf-8")
    study = resolve_study(path)
    assert study.name == "made_up_best"
    assert study.seeds == (11, 12, 13, 14)
    assert study.baseline == "base"
    assert list(study.arms) == ["base", "zero_shot", *(row.name for row in result.best())]
    configs = {row.name: row.config for row in result.complete}
    for name, arm in study.arms.items():
        assert searched(arm.config) == searched(configs[name])
    assert "equal arms" not in " ".join(study.notes)


def test_every_trial_can_be_written_and_read_back(result: TuneResult, tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(best_study(replace(result, keep=100)), encoding="utf-8")
    arms = resolve_study(path).arms
    configs = {row.name: row.config for row in result.complete}
    assert len(arms) == len(configs) > 25
    assert all(searched(arm.config) == searched(configs[name]) for name, arm in arms.items())
    assert any("text" not in config["method"].get("injections", {"text": 1}) for config in configs.values())


def test_comments_hold_the_values_of_the_search(result: TuneResult) -> None:
    lines = best_study(result).splitlines()
    for row in (result.base, *result.best()):
        assert row is not None
        comment = lines[next(i for i, line in enumerate(lines) if line.startswith(f"    {row.name}:")) - 1]
        assert f"validation accuracy {row.values[0]:.2f} ±" in comment
        assert comment.endswith("in the search")


def test_the_headline_treats_noise_as_the_search_did(tmp_path: Path) -> None:
    found = make_result(tmp_path, ["tune.noise=mc-4"], trials=6)
    study, results = measured_again(found, tmp_path, {})
    assert next(iter(study.arms.values())).config["evaluate"]["noise"] == ["mc-4", "sample"]
    assert {headline_mode(item) for item in results.values()} == {"mc-4"}
    assert isinstance(confirmed(found, study, results), Confirmation)


# --- the answer -------------------------------------------------------------------------------------------


def leads(result: TuneResult, *points: float) -> dict[str, float]:
    return {row.name: lead for row, lead in zip(result.best(), points, strict=True)}


def test_an_arm_that_is_ahead_on_fresh_seeds_is_said_to_be(result: TuneResult, tmp_path: Path) -> None:
    found = confirmed(result, *measured_again(result, tmp_path, leads(result, 1.0, 2.0)))
    assert isinstance(found, Confirmation)
    assert found.chosen is not None
    assert found.chosen.name == result.best()[1].name  # by validation on fresh seeds, not by rank
    assert found.chosen.difference.pairs == 4
    assert found.chosen.difference.mean == pytest.approx(2.0, abs=0.5)
    text = answer(result, found)
    assert text.startswith(f"`{found.chosen.name}` beats `base` by +")
    assert "points of test accuracy on 4 fresh seeds" in text
    search = found.chosen.trial
    assert search is not None
    assert f"was {search.values[0]:.2f} % in the search, {found.chosen.fresh.mean:.2f} %" in text


@pytest.mark.parametrize(("lead", "words"), [(0.0, "is not told apart from"), (-3.0, "is worse than")])
def test_nothing_found_is_said_plainly(result: TuneResult, tmp_path: Path, lead: float, words: str) -> None:
    found = confirmed(result, *measured_again(result, tmp_path, leads(result, lead, lead - 9)))
    assert isinstance(found, Confirmation)
    text = answer(result, found)
    assert text.startswith("The search found no arm that beats `base` on fresh seeds")
    assert words in text


def test_runs_of_another_study_are_not_taken_for_it(result: TuneResult, tmp_path: Path) -> None:
    name = result.best()[0].name
    for override, reason in (
        ("run.data.shots=2", "arm base has another configuration"),
        (f"design.arms.{name}.method.optim.epochs=3", f"arm {name} has another configuration"),
        ("seeds=[3,11]", "its seeds are not fresh: the search used 3, too"),
    ):
        study, results = measured_again(result, tmp_path, {}, [override])
        assert reason in str(confirmed(result, study, results))


def test_before_fresh_seeds_luck_is_mentioned(result: TuneResult) -> None:
    text = answer(result, None)
    assert text.startswith(f"In the search `{result.best()[0].name}` is the best of")
    assert "only fresh seeds tell" in text
    nothing = replace(result, trials=tuple(replace(row, state="failed", values=()) for row in result.trials))
    assert "None of 40 trials is complete" in answer(nothing, None)


# --- importances ------------------------------------------------------------------------------------------


def test_what_was_made_to_matter_matters_most(tmp_path: Path) -> None:
    found = make_result(tmp_path, trials=130)
    shares = {item.parameter: item for item in found.importances}
    assert found.importances[0].parameter == "optim.lr"
    assert math.fsum(item.ped_anova for item in found.importances) == pytest.approx(1)
    forest = {name: item.fanova for name, item in shares.items() if item.fanova is not None}
    assert max(forest, key=lambda name: forest[name] or 0.0) == "optim.lr"
    assert math.fsum(value or 0.0 for value in forest.values()) == pytest.approx(1)
    conditional = [item for item in found.importances if item.fanova is None]
    assert conditional
    assert all(20 <= item.trials < shares["optim.lr"].trials for item in conditional)
    assert all("=" in item.parameter for item in conditional)


def test_little_is_said_of_few_trials(tmp_path: Path) -> None:
    assert make_result(tmp_path, trials=15).importances == ()


# --- files ------------------------------------------------------------------------------------------------


def test_a_result_is_read_back_as_it_was(result: TuneResult, tmp_path: Path) -> None:
    result.save(tmp_path)
    assert load_result(tmp_path) == result


def test_the_table_has_every_trial_and_value(result: TuneResult) -> None:
    rows = list(csv.DictReader(io.StringIO(trials_csv(result))))
    assert [int(row["number"]) for row in rows] == list(range(40))
    top = result.ranked[0]
    row = rows[top.number]
    assert row["state"] == "complete"
    assert float(row["accuracy"]) == top.values[0]
    assert float(row["param.optim.lr"]) == top.params["optim.lr"]
    assert float(row["accuracy.seed_2"]) == accuracy(top.config, 2)
    assert float(row["seconds.overhead"]) == 0.05
    assert rows[9]["failure"].startswith("FloatingPointError")
    assert rows[0]["label"] == "base"


def test_a_request_keeps_no_password(tmp_path: Path) -> None:
    url = "postgresql://me:secret@host/db"
    request = Request("tune", ("run.data.shots=4",), 60, jobs=2, storage=url)
    request.save(tmp_path)
    assert "secret@" not in (tmp_path / "tune.json").read_text() + request.command
    assert Request.load(tmp_path) == (replace(request, storage=None), True)
    assert request.command == (
        "pinikit tune tune run.data.shots=4 --trials 60 --jobs 2 --storage 'postgresql://me:***@host/db'"
    )
