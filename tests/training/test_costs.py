"""What is measured of a run, and how phases and runs trained together share it."""

from __future__ import annotations

import time

from few_shot import NAMES, Squares, bank_of, manifest_of

from pinikit.components.methods.pini import Pini
from pinikit.components.methods.zero_shot import ZeroShot
from pinikit.study.costs import Meter, add_costs, share, text_costs


def test_a_phase_without_what_the_bank_takes() -> None:
    bank = bank_of(Squares())
    items = manifest_of(bank).test
    meter = Meter("train", bank)
    assert meter.costs()["images_encoded"] == 0
    bank.get(["image_feature"], items)
    bank.get(["image_feature"], items)
    prompts = bank.backbone.text.tokenize("a photo of a {}.", NAMES)
    bank.backbone.text.encode(prompts, bank.backbone.text.embed(prompts))
    time.sleep(0.03)
    costs = meter.costs()
    assert costs["images_encoded"] == len(items) == costs["rows_cached"]
    assert costs["tokens_train"] == prompts.prefix_length + sum(prompts.suffix_lengths)
    assert costs["seconds_bank"] > 0
    assert costs["seconds_train"] >= 0.03
    assert costs["seconds_total"] == costs["seconds_train"]
    assert costs["peak_memory_mb"] > 10
    later = Meter("evaluate", bank).costs()
    assert (later["images_encoded"], later["rows_cached"], later["tokens_evaluate"]) == (0, 0, 0)
    assert later["seconds_evaluate"] >= 0


def test_phases_add_up_but_for_the_peak() -> None:
    train = {"seconds_train": 2.0, "seconds_total": 2.0, "images_encoded": 3, "peak_memory_mb": 70.0}
    evaluate = {"seconds_evaluate": 1.0, "seconds_total": 1.0, "images_encoded": 4, "peak_memory_mb": 60.0}
    assert add_costs(train, evaluate) == {
        "seconds_train": 2.0,
        "seconds_evaluate": 1.0,
        "seconds_total": 3.0,
        "images_encoded": 7,
        "peak_memory_mb": 70.0,
    }


def test_runs_trained_together_bear_equal_shares_of_all_but_memory() -> None:
    together = {"seconds_train": 6.0, "tokens_train": 9, "peak_memory_mb": 70.0}
    assert share(together, 3) == {"seconds_train": 2.0, "tokens_train": 3.0, "peak_memory_mb": 70.0}
    assert share(together, 1) == together


def test_no_text_speed_without_text_steps() -> None:
    unknown = {"text_flops_per_second": None, "matmul_share": None}
    assert text_costs(ZeroShot(), [], bank_of()) == unknown
    assert text_costs(Pini(), [], bank_of()) == unknown, "no arm of the group came through"
