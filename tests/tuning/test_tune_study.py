"""Tune studies: what they say, and one clear error for what they must not say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pinikit.config.checking import Checker
from pinikit.errors import ConfigError
from pinikit.plugin import registry
from pinikit.study.study import resolve_study
from pinikit.tuning.openings import Choice, Number, Opening, read_openings, walk
from pinikit.tuning.study import TuneStudy, resolve_tune

RUN: dict[str, Any] = {
    "data": {"name": "digits", "shots": 4},
    "method": {
        "name": "pini",
        "injections": {
            "text": {"site": "text_feature", "injector": "free", "noise": {"name": "gaussian", "std": "exp"}},
            "image": {"site": "image_feature", "injector": "mlp", "share": "image"},
        },
        "optim": {"epochs": 20},
    },
}


def written(folder: Path, search: Any, **more: Any) -> Path:
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "run": RUN, "seeds": [1, 2], "search": search, **more}))
    return path


def tune_study(folder: Path, search: Any, **more: Any) -> TuneStudy:
    return resolve_tune(written(folder, search, **more))


def openings(study: TuneStudy) -> dict[str, Opening]:
    found = read_openings(study.base, study.search, study.where, Checker(registry()))
    return {opening.name: opening for opening in walk(found)}


def labels(opening: Opening) -> list[Any]:
    assert isinstance(opening, Choice)
    return [option.label for option in opening.options]


def test_resolving_imports_neither_torch_nor_optuna(tmp_path: Path) -> None:
    path = written(tmp_path, {"injections.*.noise": "all", "injections.*.noise.*": "auto", "optim.*": "auto"})
    code = (
        "import sys; from pinikit.tuning.study import resolve_tune\n"
        f"study = resolve_tune({str(path)!r})\n"
        "import pinikit.tuning.space\n"
        "print([m for m in ('torch', 'optuna', 'open_clip', 'matplotlib', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_settings_are_filled_in_and_the_command_line_comes_last(tmp_path: Path) -> None:
    path = written(tmp_path, {"optim.lr": "auto", "losses.*.weight": {"low": 0.1, "high": 1}})
    study = resolve_tune(
        path,
        ["search.optim.lr={low: 1e-4, high: 1e-2, log: true}", "search.losses.*.weight=null", "tune.seed=3"],
    )
    assert study.search == {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    assert (study.tune.pruner, study.tune.seed, study.seeds) == ("median", 3, (1, 2))
    assert study.base["method"]["optim"]["epochs"] == 20
    both = resolve_tune(path, ["tune.metrics=[accuracy, seconds]"])
    assert both.tune.pruner == "none"


def test_run_and_tune_refuse_each_others_studies(tmp_path: Path) -> None:
    path = written(tmp_path, {"optim.lr": "auto"})
    with pytest.raises(ConfigError, match="search: is for 'pinikit tune"):
        resolve_study(path)
    with pytest.raises(ConfigError, match=r"search: found none; .*pinikit run"):
        resolve_tune(path, ["search.optim.lr=null"])
    with pytest.raises(ConfigError, match="design: a study with a search has none"):
        resolve_tune(path, ["design.kind=grid"])


WRONG: list[tuple[Any, str]] = [
    ({"optim.lrr": "auto"}, "search.optim.lrr: unknown key path 'optim.lrr' (did you mean 'optim.lr'?)"),
    ({"injections.txt.noise": "all"}, "(did you mean 'injections.text.noise'?)"),
    ({"injections.text.noise.df": "auto"}, "unknown key path 'injections.text.noise.df'"),
    ({"injections.*.nois": "all"}, "matches nothing of the run configuration"),
    ({"injections.*.noise.*": "auto"}, "injections.*.noise.*: nothing there has"),
    ({"optim.lr": {"low": 0.1, "high": 0.01}}, "found low 0.1 above high 0.01"),
    ({"optim.lr": {"low": "a", "high": 1}}, "search.optim.lr.low: found 'a' (str); allowed: float"),
    ({"optim.epochs": {"low": 1.5, "high": 30}}, "search.optim.epochs.low: found 1.5 (float); allowed: int"),
    ({"optim.epochs": {"low": 0, "high": 30}}, "allowed: 1 or more"),
    ({"optim.epochs": {"low": 30, "high": 60}}, "base's optim.epochs is 20, which is not in 30 … 60"),
    ({"optim.epochs": {"low": 10, "high": 40, "step": 20}}, "base's optim.epochs is 20"),
    ({"optim.lr": {"low": 0, "high": 1}}, "search.optim.lr.low: found 0.0; allowed: a number above 0"),
    ({"optim.momentum": {"low": 0, "high": 1, "log": True}}, "found low 0 with log"),
    ({"optim.lr": {"low": 1e-4, "high": 1, "log": True, "step": 0.1}}, "found log and step"),
    ({"optim.lr": {"low": 1e-4, "hihg": 1}}, "unknown key 'hihg' (did you mean 'high'?)"),
    ({"optim.lr": {"low": 1e-4}}, "has no 'high'"),
    ({"optim.lr": []}, "found no choice"),
    ({"optim.lr": [1e-3, "x"]}, "found 'x' (str); allowed: float"),
    ({"optim.lr": "all"}, "found 'all' for a parameter"),
    ({"optim.lr": "optional"}, "found 'optional' for a parameter"),
    ({"optim.lr": None, "optim.warmup_lr": "auto"}, "'optim.warmup_lr' has no search range of its own"),
    ({"optim": "auto"}, "for 'optim', which is a mapping"),
    ({"injections.text.share": {"low": 1, "high": 2}}, "found a range of numbers for 'injections.text.share'"),
    ({"injections.text.noise": "auto"}, "found 'auto' for a noise; allowed: all, a list of them"),
    ({"injections.text.noise": "optional"}, "found 'optional' for a noise"),
    ({"injections.text.noise": [None, "laplace"]}, "for a noise; allowed"),
    ({"injections.text.noise": ["laplac"]}, "(did you mean 'laplace'?)"),
    ({"injections.text.noise": ["laplace", "laplace"]}, "'laplace' stands more than once"),
    ({"injections.text": "all"}, "found 'all' for an injection; allowed: optional"),
    ({"injections.third": "optional"}, "unknown key path 'injections.third'"),
    ({"injections.third": {"optional": {"sit": "pixels"}}}, "unknown key 'sit' (did you mean 'site'?)"),
    ({"optim.lr": "auto", "method.optim.lr": "auto"}, "opens 'optim.lr', and so does"),
    ({"injections.*.share": "auto", "injections.text.*": "auto"}, "opens 'injections.text.share', and so does"),
    ({"optim.lr": [1e-3]}, "the space has one point"),
    ({"data.shots": [4, 8]}, "'data' cannot be open, as trials are compared on it"),
    ({"optim..lr": "auto"}, "found the key 'optim..lr'"),
]  # fmt: skip


@pytest.mark.parametrize(("search", "message"), WRONG, ids=[str(search)[:60] for search, _ in WRONG])
def test_a_mistake_in_search_is_one_clear_error(search: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        tune_study(tmp_path, search)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 's.yaml'}: search")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"metrics": ["acuracy"]}, "metrics.0: found 'acuracy' (str) (did you mean 'accuracy'?)"),
        ({"metrics": []}, "tune.metrics: found none"),
        ({"metrics": ["nll", "nll"]}, "'nll' stands more than once"),
        (
            {"metrics": ["accuracy", "nll"], "pruner": "median"},
            "with the metrics accuracy, nll; allowed: none",
        ),
        ({"pruner": "wilcoxon"}, "'wilcoxon' with 2 seeds, where it can never prune; allowed: 6 seeds"),
        ({"pruner": "medain"}, "(did you mean 'median'?)"),
        ({"noise": "mc-0"}, "tune.noise: found 'mc-0'"),
        ({"fresh_seeds": [2, 9]}, "tune.fresh_seeds: found 2"),
        ({"best": 0}, "1 or more"),
    ],
)
def test_a_mistake_in_tune_is_one_clear_error(tune: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        tune_study(tmp_path, {"optim.lr": "auto"}, tune=tune)
    assert message in str(error.value)


def test_parameters_exist_below_their_component(tmp_path: Path) -> None:
    found = openings(
        tune_study(
            tmp_path,
            {
                "injections.text.noise": ["student_t", {"name": "gaussian_low_rank", "rank": 2}, "laplace"],
                "injections.*.noise.*": "auto",
                "injections.*.noise.df": {"low": 6, "high": 9},
                "injections.*.injector.*": "auto",
            },
        )
    )
    noise = found["injections.text.noise"]
    assert labels(noise) == ["gaussian", "student_t", "gaussian_low_rank(rank: 2)", "laplace"]
    assert isinstance(noise, Choice)
    assert noise.options[noise.start].value == {"name": "gaussian", "std": "exp"}  # as in the base
    df = found["injections.text.noise=student_t.df"]
    assert isinstance(df, Number)
    assert (df.low, df.high, df.start) == (6, 9, 6)  # the more specific key; the default is 5
    assert "injections.text.noise=gaussian_low_rank(rank: 2).rank" not in found  # what is written stays
    assert found["injections.text.injector.init_std"].start == 0.02
    assert labels(found["injections.image.injector.hidden"]) == [64, 128, 256, 512]


def test_all_are_the_registered_ones_that_need_no_parameter(tmp_path: Path) -> None:
    found = openings(tune_study(tmp_path, {"injections.image.injector": "all", "losses.*": "all"}))
    registered = {entry.name for entry in registry().entries("injector")}
    assert set(labels(found["injections.image.injector"])) == registered - {"constant"}  # wants its values
    assert set(labels(found["losses.classify"])) == {entry.name for entry in registry().entries("loss")}


def test_the_number_of_injections_and_losses_is_open(tmp_path: Path) -> None:
    search = {
        "injections.image": "optional",
        "injections.third": {"optional": {"site": "image_feature", "share": "image"}},
        "injections.*.noise": ["gaussian", "laplace"],
        "losses.beside": [None, "supcon", {"name": "uniformity", "weight": 0.1}],
    }
    found = openings(tune_study(tmp_path, search))
    starts = {name: labels(opening)[opening.start] for name, opening in found.items()}  # type: ignore[index]
    assert starts == {
        "injections.text.noise": "gaussian",
        "injections.image": "present",
        "injections.image.noise": "gaussian",
        "injections.third": "absent",
        "injections.third.noise": "gaussian",
        "losses.beside": "absent",
    }
    assert labels(found["losses.beside"]) == ["absent", "supcon", "uniformity(weight: 0.1)"]
