"""The engine: trials that come out as runs would, without the test set, whatever comes in between."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial

import pinikit
from pinikit.components.datasets.digits import Digits
from pinikit.components.datasets.image_folder import ImageFolder
from pinikit.data.catalogue import Catalogue, Item
from pinikit.data.manifest import make_manifest
from pinikit.errors import ConfigError, DataError, PinikitError
from pinikit.study import run as run_module
from pinikit.study import study as study_module
from pinikit.study.resume import Interrupted, StopRequest
from pinikit.study.store import Store
from pinikit.tuning import strategy
from pinikit.tuning.blind import BlindManifest, blind
from pinikit.tuning.engine import Engine
from pinikit.tuning.objective import Objective
from pinikit.tuning.reporting import TuneReporter
from pinikit.tuning.request import Request
from pinikit.tuning.study import TuneStudy, resolve_tune
from pinikit.tuning.tickets import Board
from pinikit.tuning.worker import Bench

STUDY = """\
name: tiny
question: Which noise?
run:
  data: {name: digits, shots: 2, views: 1}
  method:
    name: pini
    injections:
      image: {site: image_feature, injector: mlp, noise: gaussian, share: image}
    optim: {lr: 0.01, epochs: 3, batch_size: 8}
  device: cpu
  threads: 1
seeds: [1, 2]
search:
  injections.image.noise: [gaussian, laplace, uniform]
  optim.lr: {low: 1.0e-3, high: 0.1, log: true}
tune: {seed: 7}
"""
ANCHORS = ("base", "zero_shot")
VALUES = ("accuracy", "macro_accuracy", "nll", "ece")


@dataclass
class Told(TuneReporter):
    """Keeps what it is told; sends this process a signal when a trial with a number begins."""

    stop_at: int | None = None
    began: list[int] = field(default_factory=list)
    over: list[FrozenTrial] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    done: int = -1

    def started(self, study: TuneStudy, total: int, done: int, earlier: Any = ()) -> None:
        self.done = done
        assert len(earlier) >= done

    def trial_started(self, number: int) -> None:
        self.began.append(number)
        if number == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    def trial_finished(self, trial: FrozenTrial) -> None:
        self.over.append(trial)

    def message(self, text: str) -> None:
        self.messages.append(text)


@contextmanager
def engine_of(
    folder: Path, trials: int, told: TuneReporter | None = None, text: str = STUDY, **changes: Any
) -> Iterator[Engine]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.yaml").write_text(text)
    store = Store(folder / "runs")
    store.prepare()
    study = resolve_tune(folder / "tiny.yaml", changes)
    request = Request(str(study.file), trials=trials)
    with closing(Engine(study, request, store, told or TuneReporter())) as engine:
        yield engine


def search(folder: Path, trials: int, told: TuneReporter | None = None, **more: Any) -> list[FrozenTrial]:
    """All trials of a search after a call."""
    with engine_of(folder, trials, told, **more) as engine:
        engine.work()
        return list(engine.found.get_trials())


def sequence(trials: list[FrozenTrial]) -> list[Any]:
    """What must come out again: parameters, values, what the pruner was told."""
    over = sorted(
        (trial for trial in trials if trial.state.is_finished()), key=lambda trial: trial.user_attrs["place"]
    )
    return [
        (trial.params, trial.values, trial.state, trial.user_attrs.get("hash"), trial.intermediate_values)
        for trial in over
    ]


def by_seed(trial: FrozenTrial) -> dict[str, dict[str, float]]:
    return {seed: {key: row[key] for key in VALUES} for seed, row in trial.user_attrs["by_seed"].items()}


@pytest.fixture(autouse=True, scope="module")
def one_backbone() -> Iterator[None]:
    """Loaded once for all searches: nothing changes it. Reports are not looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pinikit.reporting.write_report", lambda result: None)
        patch.setattr(run_module, "load_backbone", cache(run_module.load_backbone))
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[FrozenTrial]:
    return search(tmp_path_factory.mktemp("undisturbed"), 7)


def test_the_anchors_come_first_and_every_trial_says_what_it_is(undisturbed: list[FrozenTrial]) -> None:
    labels = [trial.user_attrs.get("label") for trial in undisturbed]
    assert tuple(labels[:2]) == ANCHORS
    assert labels[2:4] == ["injections.image.noise=laplace", "injections.image.noise=uniform"]
    assert set(labels[4:]) == {None}
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
    with engine_of(tmp_path, 7, interrupted) as engine, pytest.raises(Interrupted):
        engine.work()
    assert (interrupted.done, interrupted.began) == (3, [3, 4])
    assert any("stopping after the epoch" in text for text in interrupted.messages)
    again = Told()
    assert sequence(search(tmp_path, 7, again)) == sequence(undisturbed)
    assert (again.done, again.began) == (4, [4, 5, 6])
    assert [trial.number for trial in again.over] == again.began
    nothing = Told()
    search(tmp_path, 7, nothing)
    assert (nothing.done, nothing.began) == (7, [])


def test_a_trial_whose_worker_died_is_evaluated_again(
    undisturbed: list[FrozenTrial], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with engine_of(tmp_path, 7) as engine:
        measure, calls = Objective.measure, [0]

        def die(self: Objective, *values: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] == 6:
                raise SystemExit  # nothing is told to the storage
            return measure(self, *values, **named)

        monkeypatch.setattr(Objective, "measure", die)
        with pytest.raises(SystemExit):
            engine.work()
        monkeypatch.undo()
        left = engine.found.trials[5]
        assert left.state == optuna.trial.TrialState.RUNNING
        gone = {**left.user_attrs["lease"], "began": "-1"}  # this process is still there
        engine._storage.set_trial_user_attr(left._trial_id, "lease", gone)
    told = Told()
    trials = search(tmp_path, 7, told)
    assert any("ended without a word" in text for text in told.messages)
    assert trials[5].state == optuna.trial.TrialState.FAIL
    assert trials[7].user_attrs["retry_of"] == 5
    assert sequence(trials[:5] + trials[6:]) == sequence(undisturbed)


def test_who_watches_does_not_change_what_is_trained(tmp_path: Path) -> None:
    with engine_of(tmp_path, 1) as engine:
        objective, told = engine._bench.objective, list[tuple[int, float]]()
        runs = objective.runs(engine._search.study.base)
        watched = objective.measure(runs, lambda step, value: told.append((step, value)))
        alone = objective.measure(runs)
    values = {key: [row[key] for row in alone.by_seed.values()] for key in VALUES}
    assert {key: [row[key] for row in watched.by_seed.values()] for key in VALUES} == values
    assert [step for step, _ in told] == [1, 2, 3]
    assert told[-1][1] == pytest.approx(watched.means(["accuracy"])[0])


def test_seeds_may_be_trained_one_after_the_other(tmp_path: Path) -> None:
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


def test_the_tuner_cannot_open_the_test_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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


# --- failures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "attempts", "said"),
    [
        (RuntimeError("it broke\nfor good"), 2, "RuntimeError: it broke (test_engine.py, line"),
        (torch.OutOfMemoryError("no room"), 2, "OutOfMemoryError: no room"),
        (PinikitError("the loss became nan"), 1, "the loss became nan"),
    ],
)
def test_a_failed_trial_is_recorded_and_does_not_stop_the_search(
    error: Exception, attempts: int, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measure, seen = Objective.measure, list[bool]()

    def fail(self: Objective, runs: Any, report: Any = None, *, apart: bool = False) -> Any:
        if runs[0].config["method"]["injections"]["image"]["noise"]["name"] == "laplace":
            seen.append(apart)
            raise error
        return measure(self, runs, report, apart=apart)

    def zero(self: Objective, runs: Any, *values: Any, **named: Any) -> Any:
        trained = "injections" in runs[0].config["method"]
        return fail(self, runs, *values, **named) if trained else measure(self, runs, *values, **named)

    monkeypatch.setattr(Objective, "measure", zero)
    trials = search(tmp_path, 3)
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    assert len(failed) == attempts == len(seen)
    assert all(trial.user_attrs["failure"].startswith(said) for trial in failed)
    assert all("seconds" in trial.user_attrs for trial in failed)
    assert Board(trials, 3).done == 3
    if isinstance(error, torch.OutOfMemoryError):
        assert seen == [False, True]  # with less memory at a time


def test_a_diverging_trial_says_which_seed_and_why(tmp_path: Path) -> None:
    text = STUDY.replace("high: 0.1", "high: 1.0e+30").replace("lr: 0.01", "lr: 1.0e+30")
    trials = search(tmp_path, 2, text=text)
    assert trials[0].state.name == "FAIL"
    assert "seed 1: the loss became" in trials[0].user_attrs["failure"]
    assert trials[1].state.name == "COMPLETE"


def test_equal_trials_are_evaluated_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measure, calls = Objective.measure, list[int]()

    def counted(self: Objective, *values: Any, **named: Any) -> Any:
        calls.append(1)
        return measure(self, *values, **named)

    monkeypatch.setattr(Objective, "measure", counted)
    text = STUDY.replace("  optim.lr: {low: 1.0e-3, high: 0.1, log: true}\n", "")
    trials = search(tmp_path, 6, text=text)
    assert len(calls) == 4  # three noises and zero-shot
    copies = [trial for trial in trials if "same_as" in trial.user_attrs]
    assert len(copies) == 2
    for trial in copies:
        twin = trials[trial.user_attrs["same_as"]]
        assert (trial.values, trial.params) == (twin.values, twin.params)
        assert trial.user_attrs["by_seed"] == twin.user_attrs["by_seed"]


def test_hopeless_trials_are_pruned_but_never_the_anchors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(strategy, "STARTUP_TRIALS", 0)
    monkeypatch.setattr(strategy, "WARMUP_EPOCHS", 0)
    text = STUDY.replace("low: 1.0e-3", "low: 1.0e-12").replace("epochs: 3", "epochs: 6")
    trials = search(tmp_path, 8, text=text)
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert pruned
    assert all(trial.state.name == "COMPLETE" for trial in trials[:2])
    assert all(len(trial.intermediate_values) < 7 and "seconds" in trial.user_attrs for trial in pruned)
    assert Board(trials, 8).finished


@pytest.mark.parametrize(
    "words",
    [
        {"tune.sampler": "nsgaii", "tune.metrics": ["accuracy", "nll", "seconds"], "tune.noise": "mc-2"},
        {"tune.sampler": "random", "tune.pruner": "hyperband"},
        {"tune.pruner": "wilcoxon", "seeds": [1, 2, 3, 4, 5, 6], "run.method.optim.epochs": 1},
    ],
    ids=str,
)
def test_every_sampler_and_pruner_works(words: Mapping[str, Any], tmp_path: Path) -> None:
    trials = search(tmp_path, 2 if words.get("tune.pruner") == "wilcoxon" else 3, **words)
    assert all(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials)
    assert len(trials[0].values) == len(words.get("tune.metrics", ["accuracy"]))
    if words.get("tune.pruner") == "wilcoxon":
        assert set(trials[0].intermediate_values) == set(range(6))


def test_another_space_under_the_same_name_is_refused(tmp_path: Path) -> None:
    search(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"another search 'tiny'.*\n.*space optim\.lr"):
        search(tmp_path, 1, text=STUDY.replace("high: 0.1", "high: 0.2"))


def test_a_stop_between_two_steps_is_heeded(tmp_path: Path) -> None:
    with engine_of(tmp_path, 1) as engine:
        stop = StopRequest()
        bench = Bench(engine._search.study, stop, lambda text: None)
        stop.set()
        with pytest.raises(Interrupted):
            bench.objective.measure(bench.objective.runs(engine._search.study.base))
