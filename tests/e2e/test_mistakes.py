"""What a user can get wrong: one clear message, the documented exit code, no traceback, nothing trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import STUDY, call, check_message, draw_pictures, read, write_study
from PIL import Image
from safetensors.torch import save_file
from tiny_models import EMBED, IMAGE_CONFIGS, TEXT, tiny_clip

COLOURS = {"blue": (0, 0, 190), "red": (190, 0, 0), "green": (0, 190, 0)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("pictures") / "root", COLOURS)


# --- configuration: exit code 2 ---------------------------------------------------------------------------

IMAGE = "design.arms.image.method.injections.image"
OVERRIDES: dict[str, tuple[list[str], list[str]]] = {
    "unknown noise": (
        [f"{IMAGE}.noise=gausian"],
        [
            f"command line: {IMAGE}.noise.name",
            "unknown noise 'gausian' (did you mean 'gaussian'?)",
            "allowed: ",
        ],
    ),
    "unknown method": (["run.method=pinni"], ["run.method", "'pinni' (did you mean 'pini'?)", "zero_shot"]),
    "unknown data set": (["run.data.name=digit"], ["unknown dataset 'digit' (did you mean 'digits'?)"]),
    "unknown optimiser": (["run.method.optim.name=sdg"], ["optim.name", "'sdg'", "(did you mean"]),
    "misspelt key": (
        ["run.data.shot=4"],
        ["command line: run.data.shot: unknown key 'shot' (did you mean 'shots'?)", "allowed:", "split_seed"],
    ),
    "misspelt parameter": ([f"{IMAGE}.injector.reductoin=2"], ["'reductoin' (did you mean 'reduction'?)"]),
    "misspelt arm": (["design.arms.imge.data.shots=1"], ["no such arm (did you mean 'image'?)", "zero_shot"]),
    "text for a number": (
        ["run.method.optim.lr=fast"],
        ["run.method.optim.lr: found 'fast' (str); allowed: float"],
    ),
    "fraction for a count": (["run.data.shots=1.5"], ["run.data.shots: found 1.5 (float); allowed: int"]),
    "number for a list": (["seeds=1"], ["seeds: found 1 (int); allowed: a list"]),
    "wrong choice": (
        ["run.precision=fp8"],
        ["run.precision: found 'fp8'", "allowed: auto, fp32, bf16, fp16"],
    ),
    "negative shots": (["run.data.shots=-1"], ["run.data.shots: found -1; allowed: 1 or more"]),
    "no shots": (["run.data.shots=0"], ["run.data.shots: found 0; allowed: 1 or more"]),
    "no learning rate": (["run.method.optim.lr=0"], ["optim.lr: found 0.0; allowed: a number above 0"]),
    "infinite learning rate": (
        ["run.method.optim.lr=.inf"],
        ["optim.lr: found inf; allowed: a finite number"],
    ),
    "duplicate seeds": (["seeds=[1,2,1]"], ["seeds: 1 stands more than once; allowed: distinct seeds"]),
    "no seeds": (["seeds=[]"], ["seeds: found none"]),
    "negative seed": (["seeds=[-1]"], ["seeds: found -1"]),
    "unknown baseline": (["design.baseline=zero_shoot"], ["'zero_shoot' (did you mean 'zero_shot'?)"]),
    "treatment of noise": (
        ["run.evaluate.noise=[mean,mc16]"],
        ["run.evaluate.noise: found 'mc16'; allowed: mean"],
    ),
    "template": (["run.prompt.template=plian"], ["'plian' (did you mean 'plain'?)", "one {}"]),
    "device": (["run.device=cuda:7"], ["run.device: found 'cuda:7', which cannot be used here"]),
    "no override": (["run.data.shots"], ["found 'run.data.shots'; allowed: KEY=VALUE"]),
    "no YAML": (["seeds=[1,"], ["seeds: '[1,' is not a YAML value"]),
    "refused value": ([f"{IMAGE}.injector.reduction=0"], ["injector.reduction: found 0; allowed: 1 or more"]),
    "unknown backbone": (["run.backbone.name=VIT-B-16"], ["VIT-B-16", "did you mean 'ViT-B-16'?"]),
    "block that is not there": (
        [f"{IMAGE}.site=image_block.99"],
        ["arm 'image'", "injections.image.site", "99", "image_block"],
    ),
    "block that cannot matter": (
        [f"{IMAGE}.site=image_block.-1", f"{IMAGE}.injector=free"],
        ["does not", "allowed"],
    ),
    "injector that does not fit": (
        [f"{IMAGE}.site=text_feature", f"{IMAGE}.share=class"],
        ["reads image_feature", "does not have; it has"],
    ),
    "share that does not fit": ([f"{IMAGE}.share=class"], ["share: found 'class'; allowed", "batch, image"]),
    "injection that is not there to be taken away": (
        ["design.arms.image.method.injections.imge=null"],
        ["injections.imge: found null for a label that is not there (did you mean 'image'?); allowed: image"],
    ),
    "loss that is not there to be taken away": (
        ["run.method.losses.clasify=null"],
        ["run.method.losses.clasify: found null", "(did you mean 'classify'?); allowed: classify"],
    ),
    "axis that is not there to be taken away": (
        ["design.axes.data.shots=null"],
        ["design.axes.data.shots: found null for a label that is not there; allowed: none"],
    ),
    "published number that is not there to be taken away": (
        ["expect.pini=null"],
        ["expect.pini: found null for a label that is not there; allowed: none"],
    ),
    "other data that is not there to be taken away": (
        ["run.evaluate.other_data.sketch=null"],
        ["run.evaluate.other_data.sketch: found null", "allowed: none"],
    ),
    "other data that is no mapping": (
        ["run.evaluate.other_data=digits"],
        ["run.evaluate.other_data: found 'digits' (str); allowed: a mapping of keys"],
    ),
    "unknown other data": (
        ["run.evaluate.other_data.sketch=imagenet_sketsh"],
        ["run.evaluate.other_data.sketch.name", "(did you mean 'imagenet_sketch'?)"],
    ),
    "other data to train on": (
        ["run.evaluate.other_data.more={name: digits, shots: 4}"],
        ["run.evaluate.other_data.more.shots: unknown key 'shots'; allowed: name"],
    ),
    "other data without a folder": (
        ["run.evaluate.other_data.mine=image_folder"],
        ["run.evaluate.other_data.mine.root is not given"],
    ),
    "number published for other data that is not tested on": (
        ["expect={pini: {value: 3, tolerance: 1, protocol: a, source: b, other_data: sketch}}"],
        ["expect.pini.other_data: arm 'pini': found 'sketch'; allowed: none"],
    ),
    "a search": (
        ["search={method.optim.lr: true}"],
        ["search: is for 'pinikit tune", "a study that is run has none"],
    ),
    "how to search": (["tune.sampler=random"], ["tune: is for 'pinikit tune'"]),
    "misspelt sampler": (["tune.sampler=radnom"], ["tune.sampler: found 'radnom' (did you mean 'random'?)"]),
    "prompt that is too long": (
        ["run.prompt.template='" + "very " * 90 + "long {}.'"],
        ["arm 'image'", "class 'zero'", "tokens, the text tower takes 77"],
    ),
}


@pytest.mark.parametrize("what", OVERRIDES)
def test_a_mistake_in_the_configuration(study: Path, tmp_path: Path, what: str) -> None:
    overrides, fragments = OVERRIDES[what]
    done = call("run", study, "--runs", tmp_path / "runs", *overrides)
    check_message(done, 2, *fragments)
    assert done.stdout == ""
    assert not list(tmp_path.glob("runs/by-id/*/*")), "nothing was trained"
    assert "study tiny:" not in done.stderr


FILES: dict[str, tuple[str, str, list[str]]] = {
    "misspelt key": ("shots: 2", "shotz: 2", ["run.data.shotz: unknown key 'shotz' (did you mean 'shots'?)"]),
    "misspelt site": (
        "site: image_block.2",
        "site: image_blok.2",
        ["design.arms.block.method.injections.image.site.name: unknown site 'image_blok' (did you mean"],
    ),
    "wrong type": ("epochs: 2", "epochs: two", ["method.optim.epochs: found 'two' (str); allowed: int"]),
    "no YAML": ("seeds: [1, 2]", "seeds: [1, 2", ["line 2", "is not valid YAML"]),
    "no name": ("name: tiny\n", "", ["name: missing"]),
    "name with a path in it": (
        "name: tiny\n",
        "name: ../tiny\n",
        ["name: found '../tiny'; allowed: letters"],
    ),
    "arm that is no mapping": (
        "{method: {name: zero_shot}, prompt: {template: plain}}",
        "7",
        ["zero_shot: found 7"],
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_a_mistake_in_a_file(tmp_path: Path, what: str) -> None:
    old, new, fragments = FILES[what]
    assert old in STUDY
    study = write_study(tmp_path, STUDY.replace(old, new))
    check_message(call("run", study, "--runs", tmp_path / "runs"), 2, str(study), *fragments)
    assert not (tmp_path / "runs").exists()


def test_several_mistakes_are_said_at_once(study: Path, tmp_path: Path) -> None:
    done = call(
        "run",
        study,
        "--runs",
        tmp_path / "runs",
        f"{IMAGE}.site=image_block.99",
        "design.arms.block.method.injections.image.site=image_block.98",
    )
    assert done.exit_code == 2
    assert "arm 'image'" in done.stderr
    assert "arm 'block'" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_study_and_unknown_arm(study: Path, tmp_path: Path) -> None:
    done = call("run", tmp_path / "gone.yaml")
    check_message(done, 2, "gone.yaml", "no such file", "shipped: injection_sites")
    check_message(call("run", "injection_site"), 2, "did you mean 'injection_sites'?")
    done = call("run", study, "--arms", "imgae", "--runs", tmp_path / "runs")
    check_message(
        done, 2, "--arms: no arm matches 'imgae' (did you mean 'image'?)", "allowed: zero_shot, image"
    )


def test_a_site_that_the_backbone_lacks(study: Path, tmp_path: Path) -> None:
    """Of a tower that can only be watched at its blocks nothing else is known."""
    folder = write_model(tmp_path / "model", "timm_nfnet")
    words = [
        "run",
        study,
        "--arms",
        "block",
        f"run.backbone.name=local-dir:{folder}",
        "--runs",
        tmp_path / "runs",
    ]
    for site, has in (
        ("patch_embedding", "image_block.0"),
        ("spatial_feature", "image_block.0"),
        ("image_block.9", "has blocks 0 to 3"),
    ):
        done = call(*words, f"design.arms.block.method.injections.image.site={site}")
        check_message(done, 2, "arm 'block': run.method.injections.image.site: ", site, has)


def write_model(folder: Path, image: str) -> Path:
    """A tiny open_clip model as a folder."""
    folder.mkdir()
    save_file(tiny_clip(image).state_dict(), folder / "open_clip_model.safetensors")
    config = {"embed_dim": EMBED, "vision_cfg": IMAGE_CONFIGS[image], "text_cfg": TEXT}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return folder


# --- places that cannot be written to ---------------------------------------------------------------------


def test_an_output_folder_that_cannot_be_written_to(study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for place in (tmp_path / "file" / "runs", tmp_path / "file"):
        done = call("run", study, "--runs", place)
        check_message(done, 2, f"--runs: cannot write to {place}", "choose another folder with --runs")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_study_folder_that_cannot_be_written_to(study: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "studies").write_text("in the way")
    done = call("run", study, "--arms", "zero_shot", "--runs", tmp_path / "runs", "seeds=[1]")
    assert done.exit_code != 0
    assert "Traceback" not in done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "studies" in done.stderr


# --- data: exit code 3 ------------------------------------------------------------------------------------


def test_a_missing_data_folder(study: Path, tmp_path: Path) -> None:
    words = ["run", study, "--runs", tmp_path / "runs"]
    for name in ("dtd", "caltech101", "image_folder"):
        done = call(*words, f"run.data.name={name}", f"run.data.root={tmp_path / 'gone'}")
        check_message(done, 3, f"'{name}': run.data.root is {tmp_path / 'gone'}, which is not a folder")
        done = call(*words, f"run.data.name={name}")
        check_message(done, 2, "run.data.root is not given", f"'{name}'")


def folder_words(study: Path, root: Path, runs: Path) -> list[object]:
    data = ["run.data.name=image_folder", f"run.data.root={root}", "run.data.shots=1"]
    return ["run", study, "--arms", "image", "--runs", runs, *data, "seeds=[1]"]


def test_an_empty_class_name(study: Path, tmp_path: Path, pictures: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("sky\n\nblood\n")
    done = call(*folder_words(study, pictures, tmp_path / "runs"), f"run.data.classes={classes}")
    check_message(done, 3, "the name of class 1 is empty")


def test_a_class_name_that_is_longer_than_the_context(study: Path, tmp_path: Path, pictures: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("sky\n" + "very " * 80 + "green\nblood\n")
    done = call(*folder_words(study, pictures, tmp_path / "runs"), f"run.data.classes={classes}")
    check_message(done, 2, "77", "very very")
    assert not list(tmp_path.glob("runs/by-id/*/*"))


@pytest.mark.parametrize("shots", [1, 8])
def test_a_corrupt_picture(study: Path, tmp_path: Path, shots: int) -> None:
    """Whether it is to train on or to test on; all are of the class, so any shot meets one."""
    root = draw_pictures(tmp_path / "root", COLOURS)
    for path in (root / "red").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    runs = tmp_path / "runs"
    done = call(*folder_words(study, root, runs), f"run.data.shots={shots}")
    check_message(done, 1, "2 of 2 runs failed:", f"The picture {root / 'red'}", "cannot be read")
    assert all(content["status"] == "failed" for content in read(runs).values())


def test_a_corrupt_picture_in_the_test_set(study: Path, tmp_path: Path) -> None:
    root = draw_pictures(tmp_path / "root", {})
    for split in ("train", "test"):
        draw_pictures(root / split, COLOURS, count=2)
    broken = root / "test" / "red" / "01.jpg"
    broken.write_bytes(b"no picture")
    runs = tmp_path / "runs"
    check_message(call(*folder_words(study, root, runs)), 1, f"The picture {broken} cannot be read")
    Image.new("RGB", (20, 20), "red").save(broken)
    done = call(*folder_words(study, root, runs))
    assert done.exit_code == 0, done.output


def test_a_manifest_that_does_not_fit(study: Path, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    words = ["run", study, f"run.data.manifest={path}", "--runs", tmp_path / "runs"]
    check_message(call(*words), 3, str(path), "does not exist")
    path.write_text("{}")
    check_message(call(*words), 3, str(path), "is not a split manifest")


# --- weights: exit code 3 ---------------------------------------------------------------------------------


def test_missing_and_damaged_weights(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    words = ["run", study, "--runs", tmp_path / "runs", f"run.backbone.name=local-dir:{folder}"]
    check_message(call(*words), 3, str(folder))
    write_model(folder, "vit")
    (folder / "open_clip_model.safetensors").unlink()
    check_message(call(*words), 3, str(folder))
    (folder / "open_clip_model.safetensors").write_bytes(b"damaged")
    check_message(call(*words), 3, str(folder))


# --- runs that fail: exit code 1 --------------------------------------------------------------------------


def test_a_failing_run_is_recorded_and_the_others_go_on(study: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    words: list[Any] = ["run", study, "--arms", "image,pini", "--runs", runs]
    bad = ["design.arms.image.method.optim.lr=1.0e+30", "design.arms.image.method.optim.epochs=3"]
    done = call(*words, *bad)
    check_message(done, 1, "2 of 6 runs failed:", "image, seed 1: the loss became nan in epoch 1")
    results = read(runs)
    assert {run: content["status"] for run, content in results.items()} == {
        (arm, seed): "failed" if arm == "image" else "finished"
        for arm in ("zero_shot", "image", "pini")
        for seed in (1, 2)
    }
    failed = results["image", 2]
    assert "the loss became nan" in failed["error"]
    assert "learning rate 1e+30" in failed["error"]
    assert "the loss became nan" in (runs / "by-id" / failed["run_id"] / "run.log").read_text()
    report = (runs / "studies" / "tiny" / "report.md").read_text()
    assert "the loss became nan" in report
    assert "pini" in report
    again = call(*words, *bad)
    assert again.exit_code == 1
    assert "2 runs to do, 4 finished before" in again.stderr, "failed runs are tried again"
    assert read(runs)["pini", 1] == results["pini", 1]
    mended = call(*words)
    assert mended.exit_code == 0
    assert "2 runs to do, 4 finished before" in mended.stderr
    assert "nan" not in (runs / "studies" / "tiny" / "report.md").read_text()


def test_a_study_of_failures_alone(study: Path, tmp_path: Path) -> None:
    """Also one whose only step spoils the parameters after a loss that was fine."""
    done = call(
        "run",
        study,
        "--arms",
        "image",
        "--runs",
        tmp_path / "runs",
        "design.baseline=null",
        *(
            f"run.method.optim.{value}"
            for value in ("lr=1.0e+30", "epochs=1", "warmup_epochs=0", "batch_size=32")
        ),
    )
    check_message(
        done, 1, "2 of 2 runs failed:", "evaluation with noise 'mean'", "a smaller run.method.optim.lr"
    )


def test_an_unexpected_error_in_a_run_is_recorded(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pinikit.study import run as module

    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("in the middle\nof something")

    monkeypatch.setattr(module, "evaluate", broken)
    done = call("run", study, "--arms", "image", "--runs", tmp_path / "runs", "seeds=[1]")
    check_message(done, 1, "2 of 2 runs failed:", "image, seed 1: ZeroDivisionError: in the middle (log: ")
    log = tmp_path / "runs" / "by-id" / read(tmp_path / "runs")["image", 1]["run_id"] / "run.log"
    assert "Traceback" in log.read_text(), "the log has the whole story"
