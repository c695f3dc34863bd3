"""The space of a tune study: all that it suggests can be built, and parameters keep their choices."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from optuna.trial import FixedTrial, Trial
from test_tune_study import tune_study

from pinikit.errors import ConfigError
from pinikit.study.designs.draft import content_at
from pinikit.study.run import Workshop
from pinikit.tuning.asking import plain_name
from pinikit.tuning.feasibility import Fits
from pinikit.tuning.space import Space

RICH = {
    "injections.text.noise": ["laplace", "student_t", "gaussian_low_rank", "bernoulli_mask", "shuffled"],
    "injections.image.noise": "all",
    "injections.third.noise": ["gaussian", "student_t"],
    "injections.*.noise.*": "auto",
    "injections.text.site": ["text_feature", "prompt_template"],
    "injections.image.site": ["image_feature", "pixels"],
    "injections.text.injector": ["free", "free_per_class", "cnn_pixel"],
    "injections.image.injector": ["mlp", "cnn_pixel"],
    "injections.*.injector.*": "auto",
    "injections.text.combine": ["add", "multiply"],
    "injections.image.combine": ["add", "multiply"],
    "injections.text.share": "auto",
    "injections.image.share": "auto",
    "injections.image": "optional",
    "injections.third": {"optional": {"site": "image_feature", "share": "image"}},
    "losses.classify": ["cross_entropy", "focal_ce", "siglip"],
    "losses.classify.*": "auto",
    "losses.beside": [None, "supcon", "uniformity"],
    "optim.*": "auto",
    "samples": [1, 2],
}


@cache
def workshop() -> Workshop:
    return Workshop()


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Space:
    study = tune_study(tmp_path_factory.mktemp("rich"), RICH)
    return Space(study, Fits(study, workshop()))


def method(config: Mapping[str, Any]) -> Any:
    return config["method"]


def new_study(seed: int = 0) -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


Suggested = list[tuple[dict[str, Any], dict[str, Any]]]
"""Parameters and configuration of each trial."""


@pytest.fixture(scope="module")
def suggested(rich: Space) -> Suggested:
    search, found = new_study(), []
    for _ in range(60):
        trial = search.ask()  # refuses a parameter whose choices are other than before
        config = rich.suggest(trial)
        found.append((trial.params, config))
    return found


def test_all_suggestions_can_be_built_and_repeated(rich: Space, suggested: Suggested, tmp_path: Path) -> None:
    independent = Fits(tune_study(tmp_path, RICH), workshop())
    found = [config for _, config in suggested]
    assert {independent(config) for config in found} == {None}
    for params, config in suggested[::4]:
        assert rich.suggest(FixedTrial(params)) == config
    for label, least in {"text": (2, 2, 6), "image": (2, 2, 15)}.items():
        items = [method(config)["injections"].get(label) for config in found]
        for key, count in zip(("site", "injector", "noise"), least, strict=True):
            assert len({item[key]["name"] for item in items if item}) >= count, (label, key)
    assert {len(method(config)["injections"]) for config in found} == {1, 2, 3}
    assert {len(method(config)["losses"]) for config in found} == {1, 2}


def test_parameters_are_asked_for_only_where_they_exist(suggested: Suggested) -> None:
    for params, config in suggested:
        for name in params:
            label = name.split(".")[1] if "." in name else name
            if name.startswith("injections.") and name != f"injections.{label}":
                assert label in method(config)["injections"]
            if name.startswith("injections.") and "=" in name:
                slot, _, rest = name.split(".", 2)[2].partition("=")
                component, _, parameter = rest.partition(".")
                there = method(config)["injections"][label][slot]
                assert there["name"] == component.partition(".")[0]
                assert plain_name(parameter) in there


def test_the_points_to_begin_with(rich: Space, tmp_path: Path) -> None:
    points = rich.defaults()
    assert next(iter(points)) == "base"
    study = tune_study(tmp_path, RICH)
    assert rich.suggest(FixedTrial(points["base"])) == study.base
    search = new_study()
    for parameters in points.values():
        search.enqueue_trial(parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a parameter out of its range
        configs = {label: rich.suggest(search.ask()) for label in points}
    for label in ("injections.text.noise=student_t", "injections.image=absent", "injections.third=present"):
        assert label in configs
    assert method(configs["injections.text.noise=student_t"])["injections"]["text"]["noise"] == {
        "name": "student_t", "df": 5.0, "scale": "abs",
    }  # fmt: skip
    mask = method(configs["injections.image.noise=bernoulli_mask"])["injections"]["image"]
    assert (mask["noise"]["name"], mask["combine"]["name"]) == ("bernoulli_mask", "multiply")
    assert "injections.text.injector=cnn_pixel" not in configs  # no pictures there
    assert len({json.dumps(config, sort_keys=True) for config in configs.values()}) == len(configs)


def test_the_description_is_complete_and_stable(rich: Space, tmp_path: Path) -> None:
    study = tune_study(tmp_path, RICH)
    again = Space(study, lambda config: None).describe()
    assert rich.describe() == again == json.loads(json.dumps(again))
    assert again["injections.third.noise=student_t.df"] == {
        "kind": "float", "low": 2.1, "high": 30.0, "log": True, "step": None,
        "when": {"injections.third": "present", "injections.third.noise": "student_t"},
    }  # fmt: skip
    other = tune_study(tmp_path, {**RICH, "injections.*.noise.df": {"low": 3, "high": 30}})
    differing = Space(other, lambda config: None).describe()
    assert {name for name in again if again[name] != differing[name]} == {
        f"injections.{label}.noise=student_t.df" for label in ("text", "image", "third")
    }


SMALL = {
    "injections.*.noise": ["gaussian", "laplace", "logistic"],
    "injections.*.share": ["batch", "class", "image"],
    "injections.image.injector.hidden": {"low": 8, "high": 300},
    "optim.epochs": {"low": 10, "high": 20},
    "optim.momentum": {"low": 0.0, "high": 0.9},
}


def names_of(config: Mapping[str, Any], key: str = "noise") -> tuple[Any, Any]:
    items = (method(config)["injections"][label][key] for label in ("text", "image"))
    text, image = (item["name"] if isinstance(item, dict) else item for item in items)
    return text, image


def picky(config: Mapping[str, Any]) -> str | None:
    """Within an injection, across injections, and by a number's value."""
    if any(
        one == "logistic" and two != "batch"
        for one, two in zip(names_of(config), names_of(config, "share"), strict=True)
    ):
        return "logistic wants share: batch"
    if names_of(config) in (("laplace", "laplace"), ("logistic", "laplace")):
        return "laplace at the image goes with gaussian"
    if method(config)["injections"]["image"]["injector"]["hidden"] % 2:
        return "hidden is odd"
    return "no momentum with laplace" if "laplace" in names_of(config) and method(config)["optim"]["momentum"] > 0.9 else None  # fmt: skip


@settings(max_examples=10, deadline=None, database=None)
@given(seed=some.integers(0, 10_000))
def test_parts_that_do_not_go_together_are_never_suggested(small: Any, seed: int) -> None:
    search = new_study(seed)
    for _ in range(15):
        trial = search.ask()
        config = small.suggest(trial)
        assert picky(config) is None
        assert small.suggest(FixedTrial(trial.params)) == config
        assert trial.params == search.get_trials(deepcopy=False)[trial.number].params
        assert_made_of(config, trial.params)


def assert_made_of(config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Each parameter has its value in the configuration, and none has two."""
    plain = {plain_name(name): value for name, value in params.items()}
    assert len(plain) == len(params)
    for name, value in plain.items():
        there = content_at(method(config), name)
        assert (there["name"] if isinstance(there, dict) else there) == value, name


def test_a_trial_that_is_begun_again_keeps_its_configuration(small: Space) -> None:
    """Whatever the sampler would say now: its parameters say it, and they are those of what was kept."""
    first, second, names = new_study(), new_study(1), set[str]()
    for _ in range(60):
        trial = first.ask()
        config = small.suggest(trial)
        names |= set(trial.params)
        second.enqueue_trial(trial.params)
        again = second.ask()
        assert small.suggest(again) == config
        assert again.params == trial.params
        assert small.suggest(Trial(second, again._trial_id)) == config
    assert any("hidden (only" in name for name in names)  # a number that did not go with the rest


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Space:
    return Space(tune_study(tmp_path_factory.mktemp("small"), SMALL), picky)


def test_fewer_choices_have_another_name(small: Space) -> None:
    first = {"injections.text.noise": "logistic", "injections.image.noise": "gaussian"}
    names: set[str] = set()
    search = new_study()
    for share in ("batch", "image"):
        search.enqueue_trial({**first, "injections.image.share": share})
        trial = search.ask()
        small.suggest(trial)
        names |= set(trial.params)
    assert "injections.text.share (only batch)" in names
    assert "injections.text.share" not in names
    assert "injections.image.share" in names


def test_what_is_suggested_does_not_depend_on_what_was(tmp_path: Path) -> None:
    study = tune_study(tmp_path, SMALL)
    used, search = Space(study, picky), new_study()
    trials = [search.ask() for _ in range(20)]
    configs = [used.suggest(trial) for trial in trials]
    for trial, config in zip(reversed(trials), reversed(configs), strict=True):
        assert Space(study, picky).suggest(FixedTrial(trial.params)) == config


def test_a_base_that_cannot_be_built_and_a_range_that_a_component_refuses(tmp_path: Path) -> None:
    study = tune_study(tmp_path, {"optim.lr": "auto"})
    with pytest.raises(ConfigError, match="the base configuration cannot be built: too large"):
        Space(study, lambda config: "too large")
    noises = {"injections.text.noise": ["student_t"], "injections.text.noise.df": {"low": -1, "high": 9}}
    with pytest.raises(ConfigError, match=r"search.injections.text.noise.df: .*df: found -1"):
        Space(tune_study(tmp_path, noises), lambda config: None)
