"""What comes of a search: ranks, the study of the best arms, importances, the answer, and the files."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import accuracy, make_result, measured_again
from markupsafe import Markup

from pinikit.data.manifest import make_manifest
from pinikit.study.statistics import headline_mode
from pinikit.study.store import Store
from pinikit.study.study import resolve_study
from pinikit.tuning.best import best_study, searched
from pinikit.tuning.blind import blind
from pinikit.tuning.confirm import Confirmation, answer, confirmed, is_answered
from pinikit.tuning.export import trials_csv
from pinikit.tuning.publishing import refresh
from pinikit.tuning.request import Request
from pinikit.tuning.results import TuneResult, load_result
from pinikit.tuning.seen import share_seen


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


def test_of_equal_trials_the_anchor_counts(result: TuneResult) -> None:
    """Its first attempt may have failed: then another trial of its configuration has a lower number."""
    base = next(row for row in result.trials if row.label == "base")
    early = replace(base, number=-1, label="", same_as=base.number)
    again = replace(result, trials=(early, *result.trials))
    assert again.complete == result.complete


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


def test_no_name_or_word_breaks_out_of_its_comment(result: TuneResult, tmp_path: Path) -> None:
    breaks = "x\nname: other\u2028seeds: [1]\x85z\r\ny"
    rows = tuple(
        replace(row, label=breaks) if row.name == result.best()[0].name else row for row in result.trials
    )
    base = {**result.base_config, "prompt": {**result.base_config["prompt"], "template": "one\ntwo {}"}}
    request = Request(breaks, (f"question={breaks}",), 60, storage=breaks, runs="elsewhere")
    changed = replace(result, trials=rows, base_config=base, request=request)
    path = tmp_path / "best.yaml"
    path.write_text(best_study(changed), encoding="utf-8")
    assert "--runs elsewhere`." in path.read_text(encoding="utf-8").splitlines()[0]
    study = resolve_study(path)
    assert (study.name, study.seeds) == ("made_up_best", (11, 12, 13, 14))
    assert study.arms["base"].config["prompt"]["template"] == "one\ntwo {}"


def test_ranks_in_comments_are_those_of_the_search(result: TuneResult) -> None:
    worse = [replace(row, values=(0.0,)) if row.values and not row.label else row for row in result.trials]
    found = replace(result, trials=tuple(worse))
    assert found.ranked[0].label
    assert f"# rank {found.ranked.index(found.best()[0]) + 1} in the search" in best_study(found)


# --- the answer -------------------------------------------------------------------------------------------


def leads(result: TuneResult, *points: float) -> dict[str, float]:
    return {row.name: lead for row, lead in zip(result.best(), points, strict=True)}


def test_pini_is_measured_again_wherever_it_ranks(result: TuneResult, tmp_path: Path) -> None:
    last = result.best(100)[-1]
    rows = [replace(row, label="pini") if row is last else row for row in result.trials]
    found = replace(result, trials=tuple(rows))
    study, results = measured_again(found, tmp_path, leads(result, 1.0, 2.0))
    assert list(study.arms) == ["base", "zero_shot", *(row.name for row in found.best()), "pini"]
    assert answer(found, confirmed(found, study, results)).startswith(f"`{found.best()[0].name}` beats")


def test_the_answer_is_about_the_first_of_the_search(result: TuneResult, tmp_path: Path) -> None:
    found = confirmed(result, *measured_again(result, tmp_path, leads(result, 1.0, 2.0)))
    assert isinstance(found, Confirmation)
    first = result.best()[0]
    assert found.leader.trial is first  # though the other one is ahead on fresh seeds
    assert found.leader.difference.pairs == 4
    assert found.leader.difference.mean == pytest.approx(1.0, abs=0.4)
    text = answer(result, found)
    assert text.startswith(f"`{first.name}` beats `base` by +")
    assert "points of test accuracy on 4 fresh seeds" in text
    assert (
        f"was {first.values[0]:.2f} % in the search, {found.leader.fresh.mean:.2f} % on fresh seeds" in text
    )
    assert result.base is not None
    lead, later = first.values[0] - result.base.values[0], found.leader.fresh_lead.mean
    assert f"its lead over `base` +{lead:.2f} and +{later:.2f} points." in text


@pytest.mark.parametrize(("lead", "words"), [(0.0, "is not told apart from"), (-3.0, "is worse than")])
def test_nothing_found_is_said_plainly(result: TuneResult, tmp_path: Path, lead: float, words: str) -> None:
    found = confirmed(result, *measured_again(result, tmp_path, leads(result, lead, 9)))
    assert isinstance(found, Confirmation)
    text = answer(result, found)
    assert text.startswith("The search found no arm that beats `base` on fresh seeds")
    assert words in text


def test_of_few_or_equal_seeds_no_victory_is_claimed(result: TuneResult, tmp_path: Path) -> None:
    name = result.best()[0].name
    study, results = measured_again(result, tmp_path, {})
    for (arm, seed), item in results.items():
        item.content["metrics"]["test"]["mean"]["accuracy"] = 71.0 if arm == name else 60.0 + seed
        results["base", seed].content["metrics"]["test"]["mean"]["accuracy"] = 70.0
    equal = answer(result, confirmed(result, study, results))
    assert equal.startswith(
        f"`{name}` differs from `base` by +1.00 points of test accuracy on each of 4 fresh"
    )
    assert "beats" not in equal
    fewer = replace(result, fresh_seeds=(11, 12))
    few = answer(fewer, confirmed(fewer, *measured_again(fewer, tmp_path, leads(result, 5.0, 0.0))))
    assert "on 2 fresh seeds: too few to say whether it is better, which takes 3." in few
    assert "beats" not in few


def test_missing_seeds_leave_the_answer_open(result: TuneResult, tmp_path: Path) -> None:
    first, second = (row.name for row in result.best())
    study, results = measured_again(result, tmp_path, leads(result, 2.0, 2.0))
    values = {key: item.content["metrics"]["test"]["mean"] for key, item in results.items()}
    values[first, 14]["accuracy"] = None  # as a metric that is not finite is written
    values["base", 14]["accuracy"] = 0.0  # would make any unpaired difference a victory
    found = confirmed(result, study, results)
    assert isinstance(found, Confirmation)
    assert (found.leader.seeds, found.leader.difference.pairs) == (3, 3)
    paired = [values[first, seed]["accuracy"] - values["base", seed]["accuracy"] for seed in (11, 12, 13)]
    assert found.leader.difference.mean == pytest.approx(math.fsum(paired) / 3)
    text = answer(result, found)
    assert text.startswith(f"No answer yet: of 4 fresh seeds 3 of `{first}` and 4 of `base` are finished")
    assert "beats" not in text
    assert not is_answered(found)
    del results[second, 12]
    values[first, 14]["accuracy"] = 70.0
    again = confirmed(result, study, results)
    assert isinstance(again, Confirmation)
    assert is_answered(again)  # the other arm does not matter to it
    assert second not in [arm.name for arm, _ in again.others_ahead]


def test_others_are_compared_with_correction(result: TuneResult, tmp_path: Path) -> None:
    second = result.best()[1].name
    study, results = measured_again(result, tmp_path, {})
    gaps = {second: (2.0, 1.0, 4.0, 3.0), "zero_shot": (-2.0, 1.0, -1.0, 2.0)}
    for (arm, seed), item in results.items():
        gap = gaps[arm][seed - 11] if arm in gaps else 0.0
        item.content["metrics"]["test"]["mean"]["accuracy"] = 70.0 + gap
    found = confirmed(result, study, results)
    assert isinstance(found, Confirmation)
    tested = {arm.name: p for arm, p in found.others_ahead}
    # Mean 2.5, deviation 1.29: t = 3.873 with 3 degrees of freedom; and t = 0. Twice the first, by Holm.
    assert tested == {second: pytest.approx(2 * 0.03047, abs=1e-4), "zero_shot": pytest.approx(1.0)}


def test_a_search_behind_its_base_found_nothing(result: TuneResult, tmp_path: Path) -> None:
    rows = [replace(row, values=(99.0,)) if row.label == "base" else row for row in result.trials]
    behind = replace(result, trials=tuple(rows))
    found = confirmed(behind, *measured_again(behind, tmp_path, leads(behind, 9.0, 0.0)))
    for text in (answer(behind, None), answer(behind, found)):
        assert text.startswith(
            "The search found nothing better than `base`, whose validation accuracy is 99.00"
        )
        assert "beats" not in text


def test_runs_of_another_study_are_not_taken_for_it(result: TuneResult, tmp_path: Path) -> None:
    name = result.best()[0].name
    for override, arms, reason in (
        ("run.data.shots=2", None, "arm base has another configuration"),
        (f"design.arms.{name}.method.optim.epochs=3", None, f"arm {name} has another configuration"),
        ("design.arms.zero_shot.prompt.template=pini", None, "arm zero_shot has another configuration"),
        ("seeds=[3,11]", None, "its seeds are not fresh: the search used 3, too"),
        ("seeds=[11,12,13]", None, "it has the seeds 11, 12, 13, and best.yaml 11, 12, 13, 14"),
        ("run.device=cpu", name, f"it measured {name}, and best.yaml now asks for {name}, "),
    ):
        study, results = measured_again(result, tmp_path, {}, [override], arms)
        assert reason in str(confirmed(result, study, results))


def test_a_search_that_went_on_takes_its_answer_back(result: TuneResult, tmp_path: Path) -> None:
    study, results = measured_again(result, tmp_path, leads(result, 5.0, 2.0))
    assert "beats" in answer(result, confirmed(result, study, results))
    better = replace(result.ranked[0], number=99, hash="new", values=(99.0,))
    further = replace(result, trials=(*result.trials, better))
    found = confirmed(further, study, results)
    assert f"best.yaml now asks for trial_99, {result.best()[0].name}; run best.yaml again" in str(found)
    assert "only fresh seeds tell" in answer(further, found)


def test_validation_pictures_that_the_search_had_seen_are_counted(result: TuneResult, tmp_path: Path) -> None:
    study, results = measured_again(result, tmp_path, {})
    digits = study.runs[0].dataset
    known = {seed: blind(make_manifest(digits, 4, seed), digits) for seed in result.seeds}
    noted = replace(result, data={str(seed): manifest.hash for seed, manifest in known.items()})
    found = confirmed(noted, study, results)
    assert isinstance(found, Confirmation)
    chosen_by = {item.id for manifest in known.values() for item in manifest.val}
    fresh = [item.id for seed in noted.fresh_seeds for item in study.run("base", seed).manifest.val]
    assert found.seen == sum(name in chosen_by for name in fresh) / len(fresh)
    assert 0.2 < found.seen < 0.6  # 3 times 40 of 225
    assert math.isnan(share_seen(result, study.runs))  # made-up hashes: the pictures were others


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


def test_metrics_that_are_not_finite_are_read_back(result: TuneResult, tmp_path: Path) -> None:
    """They are shown as unknown in the page, which is made anew from the file after the best arms were run."""
    top = result.ranked[0]
    odd = {**top.by_seed, 1: {**top.by_seed[1], "accuracy": math.nan, "nll": math.inf}}
    rows = tuple(replace(row, by_seed=odd) if row is top else row for row in result.trials)
    store = Store(tmp_path)
    replace(result, trials=rows).save(store.study_folder("made_up"))
    read = load_result(store.study_folder("made_up"))
    assert math.isnan(read.ranked[0].by_seed[1]["accuracy"])
    assert read.ranked[0].by_seed[1]["nll"] == math.inf
    assert read.base is not None
    assert read.ranked[0].against(read.base, "accuracy").pairs == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pinikit.reporting.html.tuning_figures.inline_svg", lambda *figure: Markup(""))
        assert f"In the search {top.name} is the best of" in str(refresh(store, "made_up_best"))
    assert f"<strong>{top.name}</strong>" in (store.study_folder("made_up") / "tuning.html").read_text()


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
