"""The studies in ``studies/paper`` derive the arms that they speak of, whatever data and weights are there."""

from __future__ import annotations

import pytest

from pinikit.config.checking import Checker
from pinikit.config.loading import find_study, load_study
from pinikit.plugin import registry
from pinikit.study.designs import expand
from pinikit.study.study import _expectations


@pytest.mark.parametrize(
    ("name", "count"),
    [("paper/pini", 11 * 5 * 3), ("paper/zero_shot", 2 * 11), ("paper/domain_generalisation", 3)],
)
def test_arms_and_published_numbers(name: str, count: int) -> None:
    checker = Checker(registry())
    file = load_study(find_study(name), [], checker)
    arms = expand(file, checker)
    assert len(arms) == count
    expected = _expectations(file, arms)
    assert set(expected) == {arm.name for arm in arms.values() if arm.series == "zero_shot"}
    assert all(number.source and number.protocol for numbers in expected.values() for number in numbers)


def test_released_recipe() -> None:
    """Values of the released code, as the specification lists them."""
    checker = Checker(registry())
    arms = expand(load_study(find_study("paper/pini"), [], checker), checker)
    config = arms["pini, data=dtd, shots=16"].config
    optim = config["method"]["optim"]
    assert (optim["name"], optim["lr"], optim["momentum"], optim["weight_decay"]) == ("sgd", 1e-3, 0.9, 5e-4)
    assert (optim["epochs"], optim["batch_size"], optim["schedule"]) == (100, 32, "cosine")
    assert (optim["warmup_epochs"], optim["warmup"], optim["warmup_lr"]) == (1, "constant", 1e-5)
    assert (config["data"]["views"], config["method"]["samples"], config["precision"]) == (100, 1, "fp32")
    without = arms["pini_mu_only, data=dtd, shots=16"].config["method"]
    assert {label: item["noise"]["name"] for label, item in without["injections"].items()} == {
        "text": "mu_only",
        "image": "mu_only",
    }
    assert without["injections"]["image"]["injector"] == config["method"]["injections"]["image"]["injector"]


def test_domain_generalisation_has_the_released_recipe() -> None:
    checker = Checker(registry())
    pini, general = (
        expand(load_study(find_study(f"paper/{name}"), [], checker), checker)
        for name in ("pini", "domain_generalisation")
    )
    for series in ("zero_shot", "pini", "pini_mu_only"):
        here, there = general[series].config, pini[f"{series}, data=imagenet, shots=16"].config
        on = {label: spec["name"] for label, spec in here["evaluate"]["other_data"].items()}
        assert on == {"v2": "imagenetv2", "sketch": "imagenet_sketch", "a": "imagenet_a", "r": "imagenet_r"}
        assert here == {
            **there,
            "evaluate": {**there["evaluate"], "other_data": here["evaluate"]["other_data"]},
        }
