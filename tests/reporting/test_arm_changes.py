"""What an arm changes, in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated import STUDY, make_study

from pinikit.reporting.changes import ArmSettings, change_text, value_text
from pinikit.reporting.text import duration, plus_minus, signed, signed_interval

NAN = float("nan")


def test_changes_against_the_baseline(tmp_path: Path) -> None:
    settings = ArmSettings(make_study(tmp_path))
    assert change_text(settings.changes("zero_shot")) == "method: zero_shot; prompt.template: plain"
    assert change_text(settings.changes("text_side")) == (
        "method: pini; injections.text: gaussian(std=sign_free) from free at prompt_template; "
        "prompt.template: pini"
    )


def test_changes_between_arms_of_one_method(tmp_path: Path) -> None:
    text = STUDY.replace("baseline: zero_shot", "baseline: both").replace(
        "    text_side:\n", "    text_side:\n      method.optim.lr: 0.01\n"
    )
    changes = ArmSettings(make_study(tmp_path, text)).changes("text_side")
    assert changes == {"method.optim.lr": "0.01", "method.injections.image": "none"}


def test_a_setting_of_all_arms_is_shared(tmp_path: Path) -> None:
    shared = ArmSettings(make_study(tmp_path, overrides=["run.data.shots=8"])).shared
    assert shared["data.shots"] == "8"
    assert shared["pini: method.optim.epochs"] == "50"
    assert "prompt.template" not in shared
    assert "seed" not in shared


def test_combine_and_loss_are_told(tmp_path: Path) -> None:
    text = STUDY.replace("share: image}\n    both", "share: image, combine: multiply}\n    both")
    changes = ArmSettings(make_study(tmp_path, text)).changes("image_side")
    assert changes["method.injections.image"].endswith("at image_block.middle, multiply, one draw per image")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), (1e-3, "0.001"), ([1, "mc-4"], "[1, mc-4]"), ({"a": 1}, "{a: 1}")],
)
def test_values_read_like_yaml(value: object, text: str) -> None:
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7620, "2 h 07 min"), (NAN, "–")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers() -> None:
    assert plus_minus(78.314, 1.2) == "78.31 ± 1.20"
    assert plus_minus(78.314, NAN) == "78.31"
    assert plus_minus(NAN, NAN) == "–"
    assert (signed(1.234), signed(-1.0), signed(-0.001)) == ("+1.23", "−1.00", "0.00")
    assert signed_interval(2.0, -1.0, 5.0, 1) == "+2.0 [−1.0, +5.0]"
    assert signed_interval(2.0, NAN, NAN) == "+2.00"
    assert signed_interval(NAN, NAN, NAN) == ""
