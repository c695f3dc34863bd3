"""Testing on other data than was trained on: ``run.evaluate.other_data``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from e2e.commands import call, check_message, draw_pictures
from torch.nn.functional import nll_loss

from pinikit import api
from pinikit.backbones.loading import load_backbone
from pinikit.components.datasets.image_folder import ImageFolder
from pinikit.components.methods.zero_shot import ZeroShot
from pinikit.data.transforms import EvalTransform
from pinikit.errors import ConfigError
from pinikit.reporting.html.material import Material
from pinikit.reporting.html.translated import other_data
from pinikit.reporting.latex import table_tex
from pinikit.reporting.markdown import report_text
from pinikit.reporting.tables import results_csv, summary_csv
from pinikit.study import run as module
from pinikit.study.checkpoint import load_checkpoint
from pinikit.study.checks import check_runs
from pinikit.study.expectations import verdicts
from pinikit.study.resume import Interrupted
from pinikit.study.run import Workshop, method_of
from pinikit.study.saved import saved_study
from pinikit.study.store import Store, StoredResult
from pinikit.study.study import Run, resolve_study
from pinikit.training.draws import MeanDraw

OWN = {"blue_sky": (0, 0, 190), "red": (190, 0, 0), "green": (0, 190, 0)}
OTHER = {"zero": (0, 170, 20), "seven": (180, 20, 0)}  # words that glyph knows
NOISE = {"name": "gaussian", "std": "sign_free"}
WORKSHOP = Workshop()
NUMBER = {"value": 50, "tolerance": 60, "protocol": "p", "source": "s"}


def study_of(folder: Path, **other_data: Any) -> dict[str, Any]:
    """A small study on the pictures of ``folder / "own"``, tested on other data, too."""
    return {
        "name": "moved",
        "run": {
            "data": {"name": "image_folder", "root": str(folder / "own"), "shots": 2, "views": 1},
            "prompt": {"template": "pini"},
            "method": {
                "name": "pini",
                "injections": {
                    "text": {"site": "prompt_template", "noise": NOISE},
                    "image": {"site": "image_feature", "injector": "cross_attention", "share": "image"},
                },
                "optim": {"epochs": 2, "lr": 0.01, "batch_size": 4},
            },
            "evaluate": {"noise": ["mean", "mc-2"], "other_data": other_data},
            "device": "cpu",
            "threads": 1,
        },
        "design": {
            "baseline": "zero_shot",
            "arms": {"zero_shot": {"method": "zero_shot", "prompt.template": "plain"}, "pini": {}},
        },
        "seeds": [1, 2],
    }


def write(folder: Path, study: Mapping[str, Any]) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(dict(study), sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    draw_pictures(folder / "own", OWN)
    draw_pictures(folder / "other", OTHER, count=6)
    return folder


@pytest.fixture(scope="module")
def done(pictures: Path) -> Iterator[api.StudyResult]:
    """The study, run."""
    new = {"new": {"name": "image_folder", "root": str(pictures / "other")}}
    again = {"same": {"name": "image_folder", "root": str(pictures / "own"), "test_fraction": 0.5}}
    study = study_of(pictures, **new, **again)
    study["expect"] = {"pini": [{**NUMBER, "other_data": "new"}, NUMBER]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pinikit.reporting.write_report", lambda result: [])  # which takes most of the time
        yield api.run_study(write(pictures, study), runs=pictures / "runs")


def test_other_pictures_are_classified_by_what_was_learned(done: api.StudyResult, pictures: Path) -> None:
    """Held against a classification by hand: other class names, the same injections, no bank."""
    assert not done.failed
    run, stored = done.study.run("pini", 1), done.results["pini", 1].other_data["new"]
    dataset = ImageFolder(str(pictures / "other"))
    items = dataset.catalogue().test
    template = "x " * 16 + "a photo of a {}."
    facts = {"data": "image_folder", "classes": 2, "pictures": len(items), "template": template}
    assert {key: stored[key] for key in facts} == facts
    backbone = load_backbone(run.backbone)
    prompts = backbone.text.tokenize(template, ("seven", "zero"))
    state = load_checkpoint(Store(pictures / "runs").run_folder(run.id)).state
    predictor = method_of(run).restore(backbone, prompts, state)
    pixels = torch.stack([EvalTransform(backbone.preprocess)(dataset.open(item)) for item in items])
    activations = backbone.image.read(pixels, predictor.requires)
    log_probs = predictor.classifier(MeanDraw())(activations).logits.log_softmax(1)
    labels = torch.tensor([item.label for item in items])
    assert stored["test"]["mean"]["nll"] == pytest.approx(nll_loss(log_probs, labels).item(), rel=1e-4)
    accuracy = 100 * (log_probs.argmax(1) == labels).double().mean().item()
    assert stored["test"]["mean"]["accuracy"] == pytest.approx(accuracy)
    assert set(stored["test"]) == {"mean", "mc-2"}
    plain = done.results["zero_shot", 1].other_data["new"]
    assert plain["template"] == "a photo of a {}."
    assert plain["test"]["mean"]["nll"] != stored["test"]["mean"]["nll"]


def test_a_run_itself_has_the_same_bits(done: api.StudyResult, pictures: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pinikit.reporting.write_report", lambda result: [])
        alone = api.run_study(write(tmp_path, study_of(pictures)), arms="pini", runs=tmp_path / "runs")
    for key, result in alone.results.items():
        other = done.results[key]
        assert result.run_id != other.run_id
        metrics = dict(other.content["metrics"])
        assert list(metrics.pop("other_data")) == ["new", "same"]
        assert result.content["metrics"] == metrics
        name = "checkpoint.safetensors"
        assert result.content["files"][name] == other.content["files"][name]
        assert not result.other_data
        assert "seconds_other_data" in other.costs
        assert "seconds_other_data" not in result.costs


def test_reports(done: api.StudyResult, pictures: Path) -> None:
    text = report_text(done)
    section = text.partition("## On other data")[2].partition("\n## ")[0]
    assert "| arm | own | `new` | `same` | mean |" in section
    assert "`new`: `image_folder`, 2 classes, 4 pictures; prompts `a photo of a {}.`, `x x" in section
    own = [done.results["pini", seed].other_data for seed in (1, 2)]
    means = [sum(on[label]["test"]["mean"]["accuracy"] for on in own) / 2 for label in ("new", "same")]
    row = next(line for line in section.splitlines() if line.startswith("| `pini` |"))
    assert [float(cell.split("±")[0]) for cell in row.split("|")[3:6]] == pytest.approx(
        [*means, sum(means) / 2], abs=0.006
    )
    base = [done.results["zero_shot", seed].other_data["new"]["test"]["mean"]["accuracy"] for seed in (1, 2)]
    (summary,) = (line for line in csv.DictReader(io.StringIO(summary_csv(done))) if line["arm"] == "pini")
    assert float(summary["on.new.difference"]) == pytest.approx(means[0] - sum(base) / 2)
    assert float(summary["on.accuracy"]) == pytest.approx(sum(means) / 2)
    lines = list(csv.DictReader(io.StringIO(results_csv(done))))
    stored = done.results["pini", 2].other_data["new"]["test"]["mc-2"]
    (line,) = (line for line in lines if (line["arm"], line["seed"], line["noise"]) == ("pini", "2", "mc-2"))
    assert float(line["on.new.nll"]) == stored["nll"]
    assert r"on \texttt{new}" in table_tex(done)
    body = other_data(Material(done, "s1", 3))
    assert body is not None
    assert "<th" in body.body
    assert "Δ new" in body.body
    shown = call("runs", "show", done.results["pini", 1].run_id, "--runs", pictures / "runs").stdout
    assert "other_data:\n" in shown
    assert "pictures: 4" in shown
    study, results = saved_study(Store(pictures / "runs"), "moved")
    saved = api.StudyResult(study, results, done.folder)
    assert report_text(saved) == text, "a report of the store needs none of the data"


def test_published_numbers_for_other_data(done: api.StudyResult, pictures: Path) -> None:
    first, second = verdicts(done.study, done.results)
    own = [done.results["pini", seed].other_data["new"]["test"]["mean"]["accuracy"] for seed in (1, 2)]
    assert (first.metric, second.metric) == ("accuracy on new", "accuracy")
    assert first.ours.mean == pytest.approx(sum(own) / 2)
    study = study_of(pictures, new={"name": "image_folder", "root": str(pictures / "other")})
    study["expect"] = {"pini": {**NUMBER, "other_data": "knew"}}
    with pytest.raises(
        ConfigError, match=r"expect\.pini\.other_data: arm 'pini': found 'knew'.*did you mean 'new'"
    ):
        resolve_study(write(pictures, study))


# --- identity -------------------------------------------------------------------------------------------


def run_of(path: Path, study: Mapping[str, Any], *overrides: str) -> Run:
    return resolve_study(write(path, study), overrides, arms="pini").run("pini", 1)


def test_other_data_is_part_of_the_identity_but_no_path_is(pictures: Path, tmp_path: Path) -> None:
    without = run_of(tmp_path, study_of(pictures))
    assert "other_data" not in without.identity
    assert set(without.identity["evaluate"]) == {"noise", "batch_size"}
    draw_pictures(tmp_path / "a", OTHER)
    draw_pictures(tmp_path / "b", OTHER)
    draw_pictures(tmp_path / "more", OTHER, count=9)
    (tmp_path / "names").write_text("six\nzero\n")
    ids = [
        run_of(tmp_path, study_of(pictures, **{label: {"name": "image_folder", **spec}})).id
        for label, spec in (
            ("new", {"root": str(tmp_path / "a")}),
            ("new", {"root": str(tmp_path / "b")}),
            ("new", {"root": str(tmp_path / "more")}),
            ("new", {"root": str(tmp_path / "a"), "classes": str(tmp_path / "names")}),
            ("newer", {"root": str(tmp_path / "a")}),
        )
    ]
    assert ids[0] == ids[1]
    assert len({without.id, *ids}) == 5


def test_a_name_will_do_and_null_takes_away(pictures: Path, tmp_path: Path) -> None:
    own = {"name": "image_folder", "root": "X"}
    run = run_of(tmp_path, study_of(pictures, numbers="digits", own=own), "run.evaluate.other_data.own=null")
    study = study_of(pictures, numbers="digits")
    assert list(run.others) == ["numbers"]
    assert run.others["numbers"].template.endswith("x a photo of the digit {}.")
    assert (
        run_of(tmp_path, study, "run.evaluate.other_data.numbers=null").id
        == run_of(tmp_path, study_of(pictures)).id
    )


# --- what is refused ------------------------------------------------------------------------------------


def check(path: Path, study: Mapping[str, Any], *overrides: str) -> None:
    found = resolve_study(write(path, study), ["seeds=[1]", *overrides])
    check_runs(found, found.runs, WORKSHOP)


def refused(path: Path, study: Mapping[str, Any], message: str, *overrides: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(path, study, *overrides)


def test_what_is_learned_for_each_class_is_refused_for_others(pictures: Path, tmp_path: Path) -> None:
    per_class = "run.method.injections.text={site: text_feature, injector: free_per_class, share: class}"
    others = {"new": {"name": "image_folder", "root": str(pictures / "other")}}
    refused(
        tmp_path,
        study_of(pictures, **others),
        r"run\.evaluate\.other_data\.new: data set 'image_folder': run\.method\.injections\.text learns something for "
        "each class",
        per_class,
    )
    draw_pictures(tmp_path / "as_many", {**OTHER, "one": (0, 0, 99)})
    as_many = {"new": {"name": "image_folder", "root": str(tmp_path / "as_many")}}
    refused(tmp_path, study_of(pictures, **as_many), "learns something for each class", per_class)
    same = {"same": {"name": "image_folder", "root": str(pictures / "own"), "test_fraction": 0.5}}
    check(tmp_path, study_of(pictures, **same), per_class)


def test_prompts_of_another_length_are_refused_where_their_tokens_are_learned(
    pictures: Path, tmp_path: Path
) -> None:
    study = study_of(pictures, numbers="digits")
    refused(
        tmp_path,
        study,
        r"other_data\.numbers: data set 'digits': .*\.text learns .* of shape .*run\.prompt\.templ",
    )
    check(tmp_path, study, "run.prompt.template='x x {}.'")


def test_methods_must_say_that_other_classes_will_do() -> None:
    class Silent(ZeroShot):
        check_transfer = ZeroShot.__mro__[1].check_transfer  # that of all methods

    arguments: Any = (None, None, None)
    ZeroShot().check_transfer(*arguments, same_classes=False)
    Silent().check_transfer(*arguments, same_classes=True)
    with pytest.raises(ConfigError, match="not known to be of use for other classes"):
        Silent().check_transfer(*arguments, same_classes=False)


def test_keys_are_those_of_the_study(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PINIKIT_DATA", raising=False)
    refused(
        tmp_path,
        study_of(pictures, v2="imagenetv2"),
        r"arm 'zero_shot': run\.evaluate\.other_data\.v2\.root is not given",
    )
    refused(
        tmp_path,
        study_of(pictures, v2="imagenetv3"),
        r"run\.evaluate\.other_data\.v2.*did you mean 'imagenetv2'",
    )
    refused(
        tmp_path,
        study_of(pictures, v2={"name": "digits", "shots": 4}),
        r"other_data\.v2\.shots: unknown key 'shots'",
    )


# --- what cannot be tested ------------------------------------------------------------------------------


def test_a_test_that_fails_costs_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted, then with a broken picture, then mended: trained once, and the same as undisturbed."""
    draw_pictures(tmp_path / "own", OWN)
    draw_pictures(tmp_path / "other", OTHER, count=6)
    monkeypatch.setattr("pinikit.reporting.write_report", lambda result: [])
    new = {"name": "image_folder", "root": str(tmp_path / "other")}
    same = {"name": "image_folder", "root": str(tmp_path / "own"), "test_fraction": 0.5}
    study = study_of(tmp_path, same=same, new=new)
    study |= {"seeds": [1], "design": {"arms": {"pini": {}}}}
    study["run"]["method"]["optim"]["epochs"] = 1
    study["expect"] = {"pini": {**NUMBER, "other_data": "new"}}
    path, runs = write(tmp_path, study), tmp_path / "runs"
    whole = api.run_study(path, runs=tmp_path / "undisturbed").results["pini", 1]

    def stored() -> StoredResult:
        (found,) = (Store(runs).load(key) for key in Store(runs).run_ids())
        assert found is not None
        assert found.finished
        return found

    def report() -> str:
        return report_text(api.StudyResult(*saved_study(Store(runs), "moved"), runs / "studies" / "moved"))

    def interrupted(*_: Any) -> None:
        raise Interrupted("now")

    words = ("run", path, "--runs", runs)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_evaluate_elsewhere", interrupted)
        assert call(*words).exit_code == 130
    assert stored().untested == dict.fromkeys(("same", "new"), "the test was interrupted")
    assert "1 untested" in call("status", "--runs", runs).stdout
    monkeypatch.setattr(type(method_of(resolve_study(path).runs[0])), "fit", None)  # no training from here on
    broken = {path: path.read_bytes() for path in (tmp_path / "other" / "zero").iterdir()}
    for picture, content in broken.items():
        picture.write_bytes(bytes(len(content)))  # of the same size, which is part of the identity
    done = call(*words)
    check_message(
        done,
        1,
        "1 of 1 run not tested on all their data",
        f"new: pini seed 1: The picture {tmp_path / 'other'}",
    )
    assert list(stored().untested) == ["new"]
    assert stored().other_data["same"] == whole.other_data["same"]
    assert f"- `new`: `pini` seed 1: The picture {tmp_path / 'other' / 'zero'}" in report()
    assert "accuracy on new | 50.00 | – |" in report()
    assert "not tested on new: The picture" in call("status", "--runs", runs).stdout
    assert "0 done, 0 to do, 1 to test on other data." in call(*words, "--dry-run").stdout
    for picture, content in broken.items():
        picture.write_bytes(content)
    assert call(*words, "--rerun", "failed").exit_code == 0
    assert not stored().untested
    for part in ("metrics", "files", "identity"):
        assert stored().content[part] == whole.content[part]
    assert "Missing" not in report()
