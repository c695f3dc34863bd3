"""The engine: trials that come out as runs would, without the test set, again and again the same."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial
from small_search import STUDY, Rig, Told, engine_of, memory, one_backbone, rig, search, sequence

import pinikit
from pinikit.components.datasets.digits import Digits
from pinikit.components.datasets.image_folder import ImageFolder
from pinikit.data.catalogue import Catalogue, Item
from pinikit.data.manifest import make_manifest
from pinikit.errors import ConfigError, DataError
from pinikit.study import study as study_module
from pinikit.study.resume import Interrupted, StopRequest
from pinikit.tuning import strategy, worker
from pinikit.tuning.blind import BlindManifest, blind
from pinikit.tuning.objective import Objective
from pinikit.tuning.space import Space
from pinikit.tuning.tickets import Board
from pinikit.tuning.worker import Bench

__all__ = ["memory", "one_backbone", "rig"]  # fixtures

ANCHORS = ("base", "zero_shot")
VALUES = ("accuracy", "macro_accuracy", "nll", "ece")


def by_seed(trial: FrozenTrial) -> dict[str, dict[str, float]]:
    return {seed: {key: row[key] for key in VALUES} for seed, row in trial.user_attrs["by_seed"].items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[FrozenTrial]:
    return search(tmp_path_factory.mktemp("undisturbed"), 6)


def test_the_anchors_come_first_and_every_trial_says_what_it_is(undisturbed: list[FrozenTrial]) -> None:
    labels = [trial.user_attrs.get("label") for trial in undisturbed]
    assert tuple(labels[:2]) == ANCHORS
    choices = [f"injections.image.noise={noise}" for noise in ("laplace", "uniform")]
    assert [label for label in labels if label in choices] == choices
    assert labels[-1] is None
    assert len({trial.user_attrs["hash"] for trial in undisturbed}) == len(undisturbed)
    for trial in undisturbed:
        attrs = trial.user_attrs
        if trial.state == optuna.trial.TrialState.COMPLETE:
            mean = sum(row["accuracy"] for row in attrs["by_seed"].values()) / 2
            assert trial.values == [pytest.approx(mean)]
        assert set(attrs["seconds"]) == {"bank", "train", "evaluate", "overhead"}
        assert min(attrs["seconds"].values()) > -1e-3
        assert attrs["worker"]
    assert json.loads(undisturbed[1].user_attrs["config"])["method"] == {"name": "zero_shot"}
    assert json.loads(undisturbed[0].user_attrs["config"])["method"]["optim"]["lr"] == 0.01
    assert set(undisturbed[0].intermediate_values) == {1, 2, 3}


def test_a_trial_comes_out_as_its_runs_do(undisturbed: list[FrozenTrial], tmp_path: Path) -> None:
    arms = {"trial": {"run": json.loads(undisturbed[4].user_attrs["config"])}}
    config = arms["trial"]["run"]
    text = json.dumps({"name": "same", "run": config, "design": {"arms": {"trial": {}}}, "seeds": [1, 2]})
    (tmp_path / "same.yaml").write_text(text)
    result = pinikit.run_study(tmp_path / "same.yaml", runs=tmp_path / "runs")
    assert not result.failed
    for (_, seed), stored in result.results.items():
        ours, theirs = by_seed(undisturbed[4])[str(seed)], stored.metrics("val", "mean")
        assert ours == {key: pytest.approx(theirs[key], rel=1e-5) for key in VALUES}


def test_the_total_counts_earlier_calls_and_interruptions_leave_no_trace(
    undisturbed: list[FrozenTrial], tmp_path: Path
) -> None:
    first = Told()
    search(tmp_path, 3, first)
    assert (first.done, first.began) == (0, [0, 1, 2])
    interrupted = Told(stop_at=4)
    with engine_of(tmp_path, 6, interrupted) as engine, pytest.raises(Interrupted):
        engine.work()
    assert (interrupted.done, interrupted.began) == (3, [3, 4])
    assert any("stopping after the epoch" in text for text in interrupted.messages)
    again = Told()
    assert sequence(search(tmp_path, 6, again)) == sequence(undisturbed)
    assert (again.done, again.began) == (4, [4, 5])
    assert [trial.number for trial in again.over] == again.began
    nothing = Told()
    search(tmp_path, 6, nothing)
    assert (nothing.done, nothing.began) == (6, [])


def test_a_trial_whose_worker_died_is_evaluated_again(
    undisturbed: list[FrozenTrial], memory: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with engine_of(tmp_path, 6) as engine:
        measure, calls = Objective.measure, [0]

        def die(self: Objective, *values: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] == 5:
                raise SystemExit  # nothing is told to the storage
            return measure(self, *values, **named)

        monkeypatch.setattr(Objective, "measure", die)
        with pytest.raises(SystemExit):
            engine.work()
        monkeypatch.setattr(Objective, "measure", measure)
        left = engine.found.trials[4]
        assert left.state == optuna.trial.TrialState.RUNNING
        gone = {**left.user_attrs["lease"], "began": "-1"}  # this process is still there
        engine._storage.set_trial_user_attr(left._trial_id, "lease", gone)
    told = Told()
    trials = search(tmp_path, 6, told)
    assert any("ended without a word" in text for text in told.messages)
    assert trials[4].state == optuna.trial.TrialState.FAIL
    assert trials[6].user_attrs["retry_of"] == 4
    assert sequence(trials[:4] + trials[5:]) == sequence(undisturbed)


def test_who_watches_does_not_change_what_is_trained(memory: None, tmp_path: Path) -> None:
    with engine_of(tmp_path, 1) as engine:
        objective, told = engine._bench.objective, list[tuple[int, float]]()
        runs = objective.runs(engine._search.study.base)
        watched = objective.measure(runs, lambda step, value: told.append((step, value)))
        alone = objective.measure(runs)
    values = {key: [row[key] for row in alone.by_seed.values()] for key in VALUES}
    assert {key: [row[key] for row in watched.by_seed.values()] for key in VALUES} == values
    assert [step for step, _ in told] == [1, 2, 3]
    assert told[-1][1] == pytest.approx(watched.means(["accuracy"])[0])


def test_seeds_may_be_trained_one_after_the_other(memory: None, tmp_path: Path) -> None:
    with engine_of(tmp_path, 1) as engine:
        objective, told = engine._bench.objective, list[tuple[int, float]]()
        runs = objective.runs(engine._search.study.base)
        apart = objective.measure(runs, lambda step, value: told.append((step, value)), apart=True)
        together = objective.measure(runs)
    assert [step for step, _ in told] == [0, 1]
    assert apart.means(["nll"]) == [pytest.approx(together.means(["nll"])[0], rel=1e-4)]


# --- the test set ---------------------------------------------------------------------------------------


class Sealed(Item):
    """A picture of the test split whose label cannot be read."""

    broken = False

    @property  # type: ignore[override]
    def label(self) -> int:
        if Sealed.broken:
            raise AssertionError("somebody reads a test label")
        return self.__dict__["label"]

    @label.setter
    def label(self, value: int) -> None:
        self.__dict__["label"] = value


def test_the_tuner_cannot_open_the_test_set(
    memory: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Test labels can be read while a split manifest is made, and never again; test pictures never."""
    whole = Digits().read()
    names = frozenset(item.id for item in whole.test)

    def read(self: Digits) -> Catalogue:
        test = tuple(Sealed(item.id, item.label) for item in whole.test)
        return Catalogue(whole.dataset, whole.class_names, whole.train, whole.val, test)

    def opened(self: Digits, item: Item) -> Any:
        assert item.id not in names, "somebody looks at a test picture"
        return opener(self, item)

    def made(*values: Any) -> Any:
        Sealed.broken = False
        manifest = make_manifest(*values)
        assert all(isinstance(item, Sealed) for item in manifest.test)
        Sealed.broken = True
        return manifest

    opener = Digits.open
    monkeypatch.setattr(Digits, "read", read)
    monkeypatch.setattr(Digits, "open", opened)
    monkeypatch.setattr(study_module, "make_manifest", made)
    monkeypatch.setattr(Sealed, "broken", False)
    monkeypatch.setenv("PINIKIT_CACHE", str(tmp_path / "cache"))  # nothing was encoded before
    (tmp_path / "plain.yaml").write_text(STUDY.partition("search:")[0])
    with pytest.raises(AssertionError, match="test label"):  # the seal holds: an ordinary run breaks it
        pinikit.run_study(tmp_path / "plain.yaml", runs=tmp_path / "ordinary")
    Sealed.broken = False
    trials = search(tmp_path, 3)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert Sealed.broken


def test_a_data_set_without_a_val_split_gets_one_out_of_its_train_split(tmp_path: Path) -> None:
    from PIL import Image

    for label, count in (("cat", 12), ("dog", 3)):
        for number in range(count):
            path = tmp_path / "pictures" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number * 9, 255 * (label == "cat"), 0)).save(path)
    dataset = ImageFolder(root=str(tmp_path / "pictures"), test_fraction=0.2, val_fraction=0)
    manifest = make_manifest(dataset, 2, 5)
    assert not manifest.val
    found = blind(manifest, dataset)
    assert isinstance(found, BlindManifest)
    assert not found.test
    assert {item.label for item in found.val} == {item.label for item in found.train} == {0, 1}
    ids = [item.id for item in (*found.train, *found.val)]
    assert len(set(ids)) == len(ids)
    assert not set(ids) & {item.id for item in manifest.test}
    (note,) = (note for note in found.notes if "no val split" in note)
    assert f"{len(found.val)} pictures are held out" in note
    assert blind(manifest, dataset) == found
    assert blind(make_manifest(dataset, 2, 6), dataset).val != found.val


def test_a_data_set_with_nothing_to_hold_out_is_refused() -> None:
    items = [Item(f"{label}/{name}", label) for label in (0, 1) for name in "ab"]

    class Few(Digits):
        def read(self) -> Catalogue:
            return Catalogue("few", ("a", "b"), (items[0], items[2]), (), (items[1], items[3]))

    with pytest.raises(DataError, match="nothing that could be held out"):
        blind(make_manifest(Few(), 1, 1), Few())


# --- the rest ---


def test_equal_trials_are_evaluated_once(rig: Rig, tmp_path: Path) -> None:
    text = STUDY.replace("  optim.lr: {low: 1.0e-3, high: 0.1, log: true}\n", "")
    trials = search(tmp_path, 6, text=text)
    hashes = {trial.user_attrs["hash"] for trial in trials}
    assert len(rig.calls) == len(hashes) < 6
    copies = [trial for trial in trials if "same_as" in trial.user_attrs]
    assert len(copies) == 6 - len(hashes)
    for trial in copies:
        twin = trials[trial.user_attrs["same_as"]]
        assert (trial.values, trial.params) == (twin.values, twin.params)
        assert trial.user_attrs["by_seed"] == twin.user_attrs["by_seed"]
        assert trial.intermediate_values == twin.intermediate_values


def test_a_search_that_tpe_has_a_say_in_comes_out_again(rig: Rig, tmp_path: Path) -> None:
    """Its model begins after ten trials, where a random search goes another way."""
    whole = search(tmp_path / "whole", 16)
    for total in (4, 12, 16):  # in three calls
        parts = search(tmp_path / "parts", total)
    assert sequence(parts) == sequence(whole)
    random = search(tmp_path / "random", 16, **{"tune.sampler": "random"})
    different = [a.params != b.params for a, b in zip(whole, random, strict=True)]
    assert not any(different[:4])
    assert all(different[11:])


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ({"tune.pruner": "median", "run.method.optim.epochs": 6}, range(1, 6)),
        ({"tune.pruner": "hyperband", "run.method.optim.epochs": 9}, range(1, 9)),
        ({"tune.pruner": "wilcoxon", "seeds": list(range(1, 8))}, range(6)),
    ],
    ids=["median", "hyperband", "wilcoxon"],
)
def test_hopeless_trials_are_pruned_before_their_end_but_never_the_anchors(
    words: Mapping[str, Any], steps: range, rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(strategy, "STARTUP_TRIALS", 2)
    monkeypatch.setattr(strategy, "WARMUP_EPOCHS", 1)
    trials = search(tmp_path, 14, text=STUDY.replace("low: 1.0e-3", "low: 1.0e-12"), **words)
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert 3 <= len(pruned) <= 12
    best = max(trial.value for trial in trials if trial.state.name == "COMPLETE")
    assert all(trial.state.name == "COMPLETE" for trial in trials[:2])
    for trial in pruned:
        told = list(trial.intermediate_values)
        assert told == list(steps)[: len(told)]
        assert trial.value is None or trial.value < best
        assert "seconds" in trial.user_attrs
    assert Board(trials, 14).finished


def test_a_training_that_is_pruned_ends_with_its_epoch(tmp_path: Path, memory: None) -> None:
    with engine_of(tmp_path, 1) as engine:
        objective, told = engine._bench.objective, list[int]()

        def prune(step: int, value: float) -> None:
            told.append(step)
            if step == 2:
                raise optuna.TrialPruned

        with pytest.raises(optuna.TrialPruned):
            objective.measure(objective.runs(engine._search.study.base), prune)
    assert told == [1, 2]
    assert objective.spent["train"] > 0


def test_several_metrics_make_a_front(memory: None, tmp_path: Path) -> None:
    words = {"tune.sampler": "nsgaii", "tune.metrics": ["accuracy", "nll", "seconds"], "tune.noise": "mc-2"}
    trials = search(tmp_path, 3, **words)
    assert [(trial.state.name, len(trial.values)) for trial in trials] == [("COMPLETE", 3)] * 3


def test_what_a_trial_tells_in_the_end_counts_as_overhead(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is told after the seconds are noted, so the next trial's hold it."""
    tell = worker._Attempt.tell

    def slowly(self: worker._Attempt, *values: Any) -> None:
        tell(self, *values)
        time.sleep(0.1)

    monkeypatch.setattr(worker._Attempt, "tell", slowly)
    trials = search(tmp_path, 3)
    assert all(trial.user_attrs["seconds"]["overhead"] > 0.1 for trial in trials[1:])


def test_others_do_not_wait_for_the_first_points_of_a_search(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """To find them may take longer than a search may be without its description."""
    defaults, names = Space.defaults, list[list[str]]()

    def noted(self: Space) -> Any:
        names.append(optuna.get_all_study_names(kept[0]))
        return defaults(self)

    from pinikit.tuning import engine as engine_module

    opened, kept = engine_module.open_storage, list[Any]()
    monkeypatch.setattr(engine_module, "open_storage", lambda *words: kept.append(opened(*words)) or kept[0])
    monkeypatch.setattr(Space, "defaults", noted)
    search(tmp_path, 3)
    assert names == [[]]


def test_another_space_under_the_same_name_is_refused(rig: Rig, tmp_path: Path) -> None:
    search(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"another search 'tiny'.*\n.*space optim\.lr"):
        search(tmp_path, 1, text=STUDY.replace("high: 0.1", "high: 0.2"))


def test_a_pruner_with_other_steps_is_refused(rig: Rig, tmp_path: Path) -> None:
    seeds = list(range(1, 7))
    search(tmp_path, 1, seeds=seeds)
    search(tmp_path, 1, **{"seeds": seeds, "tune.pruner": "none"})
    with pytest.raises(ConfigError, match=r'steps of the pruner .*: "epoch" there, "seed" here'):
        search(tmp_path, 1, **{"seeds": seeds, "tune.pruner": "wilcoxon"})


def test_a_stop_between_two_steps_is_heeded(memory: None, tmp_path: Path) -> None:
    with engine_of(tmp_path, 1) as engine:
        stop = StopRequest()
        bench = Bench(engine._search.study, stop, lambda text: None)
        stop.set()
        with pytest.raises(Interrupted):
            bench.objective.measure(bench.objective.runs(engine._search.study.base))
