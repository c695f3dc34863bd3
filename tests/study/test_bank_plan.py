"""What runs ask their view banks for, before anything is trained."""

from __future__ import annotations

from pathlib import Path

from test_designs import designed

from pinikit.study.bank_plan import plan_bank
from pinikit.study.checks import check_runs
from pinikit.study.run import Workshop


def test_frozen_features_for_a_loss_are_banked_for_training_pictures_only(tmp_path: Path) -> None:
    """The tower begins at the pixels; a loss compares with the frozen feature, which no evaluation reads."""
    design = {
        "kind": "arms",
        "arms": {
            "plain": {"method.injections": {"image": {"site": "pixels", "injector": "free"}}},
            "held": {
                "method.injections": {"image": {"site": "pixels", "injector": "free"}},
                "method.losses": {"classify": "cross_entropy", "beside": "logit_mse_distill"},
            },
        },
    }
    study, workshop = designed(tmp_path, design, seeds=[1]), Workshop()
    footprints = check_runs(study, study.runs, workshop).footprints
    plans = {run.arm: plan_bank([run], footprints, workshop) for run in study.runs}
    (run,) = (run for run in study.runs if run.arm == "held")
    feature = workshop.bank(run).backbone.feature_width * 4
    views = min(run.config["data"]["views"], footprints["held"].epochs)
    extra = plans["held"].needed - plans["plain"].needed
    assert extra == len(run.manifest.train) * max(views, 1) * feature > 0
