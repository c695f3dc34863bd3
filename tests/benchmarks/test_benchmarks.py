"""Every benchmark at a tiny shape: both sides compute the same, and the table has its rows. No times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import _tools, bank, memory, naive, planning, scaling, step, study
from benchmarks.pini import make_dataset, make_model, make_prompts, make_task, make_watched
from pinikit.backbones.base import Backbone
from pinikit.training.draws import FixedDraw

CPU = torch.device("cpu")
SMALL = ["--backbone", "glyph", "--device", "cpu", "--threads", "1", "--repeat", "1"]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return _tools.make_backbone("glyph", CPU, "fp32")


# --- the naive twin ---------------------------------------------------------------------------------


def rival_of(backbone: Backbone, names: tuple[str, ...]) -> step.Rival:
    dataset = make_dataset(backbone, names, pictures=6)
    return step.make_rival(backbone, dataset, make_watched(make_task(backbone, "fp32", dataset), "fp32"))


def test_chunks_give_the_gradients_of_the_whole_step(backbone: Backbone) -> None:
    rival = rival_of(backbone, _tools.class_names(7))
    whole = rival.step()
    expected = {name: value.grad.clone() for name, value in rival.naive.generators.named_parameters()}
    rival.naive.optimiser.zero_grad()
    chunked = step.Rival(**{**vars(rival), "chunk": 3}).step()
    torch.testing.assert_close(chunked.loss, whole.loss)
    for name, value in rival.naive.generators.named_parameters():
        assert step.relative([value.grad], [expected[name]]) < 1e-4 or expected[name].norm() < 1e-6, name


def test_the_naive_twin_without_noise_is_open_clip(backbone: Backbone) -> None:
    names = _tools.class_names(3)
    twin = step.make_naive(backbone, names)
    for parameter in (twin.generators.text_mean, twin.generators.text_std):
        parameter.data.zero_()
    with torch.no_grad():
        found = twin.encode_text(torch.ones_like(twin.generators.text_mean))
        torch.testing.assert_close(found, backbone.model.encode_text(twin.tokens))


def test_the_naive_twin_uses_nothing_of_pinikit() -> None:
    assert "pinikit" not in Path(naive.__file__).read_text(encoding="utf-8")


def test_saved_bytes_counts_each_storage_once_and_no_weights() -> None:
    layer = torch.nn.Linear(3, 5).requires_grad_(False)
    value = torch.zeros(2, 3, requires_grad=True)
    assert _tools.saved_bytes(lambda: layer(value).sum(), layer) == 0  # frozen: needs the weight only
    assert _tools.saved_bytes(lambda: (value * value).exp().sum(), layer) == 2 * value.nbytes


@pytest.mark.parametrize(
    ("classes", "free", "expected"), [(10, 10_000, None), (100, 10_000, 30), (100, 100, 10)]
)
def test_chunks_are_taken_where_memory_is_short(classes: int, free: int, expected: int | None) -> None:
    assert step.chunk_size(classes, 100, free) == expected


# --- step -------------------------------------------------------------------------------------------


def test_step(capsys: pytest.CaptureFixture[str]) -> None:
    table = step.main([*SMALL, "--classes", "3", "11", "--json"])
    assert [row["classes"] for row in table.rows] == [3, 11]
    for row in table.rows:
        assert row["Δ text"] < 1e-5
        assert row["Δ image"] < 1e-5
        assert row["Δ grad"] < 1e-3
        assert row["ratio"] == row["naive s"] / row["pinikit s"]
    assert json.loads(capsys.readouterr().out)["rows"] == list(table.rows)


def test_step_notices_another_gradient(backbone: Backbone) -> None:
    names = _tools.class_names(3)
    rival = rival_of(backbone, names)
    task = make_task(backbone, "fp32", make_dataset(backbone, names, pictures=6))
    learner = make_watched(task, "fp32")
    with torch.no_grad():
        learner.model.injections["text"].injector.values["mean"] *= 2
    differences = step.differences(learner, task, rival, rival.step())
    assert differences["Δ text"] > 1e-4
    assert differences["Δ grad"] > 1e-3


# --- memory -----------------------------------------------------------------------------------------


def test_memory_of_both_sides_is_of_the_same_features(backbone: Backbone) -> None:
    names = _tools.class_names(4)
    twin = step.make_naive(backbone, names)
    model = make_model(backbone, make_prompts(backbone, names))
    values = model.injections["text"].injector.values
    twin.generators.text_mean.data.copy_(values["mean"])
    twin.generators.text_std.data.copy_(values["std"])
    draw = torch.ones_like(values["mean"])
    found = model.text(FixedDraw({"text": draw})).features
    assert step.relative([found], [twin.encode_text(draw)]) < 1e-5


@pytest.mark.drill
def test_memory_in_a_child() -> None:
    flags = ["--child", "naive", "fp32", "--classes", "4", "--device", "cpu", "--backbone", "glyph"]
    found = _tools.in_child("benchmarks.memory", flags, threads=1)
    assert found["bytes"] > 4 * found["saved_bytes_per_class"] > 0


def test_memory_in_this_process(backbone: Backbone) -> None:
    assert memory.peak("pinikit", backbone, _tools.class_names(4))["bytes"] >= 0
    with pytest.raises(ValueError, match="allowed: naive, pinikit"):
        memory.peak("both", backbone, ("ant",))


def test_memory_computes_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tools, "free_bytes", lambda device: 10_000)
    asked = []

    def child(side: str, precision: str, count: int) -> dict[str, int]:
        asked.append((side, count))
        return {"bytes": 100 * count if side == "naive" else count, "saved_bytes_per_class": 90}

    rows = memory.measure(child, [10, 50, 1000], CPU, ["fp32"])
    assert ("naive", 1000) not in asked
    assert [row["naive is"] for row in rows] == ["measured", "measured", "computed"]
    assert [row["naive MB"] for row in rows] == pytest.approx([0.001, 0.005, 0.1])
    assert [row["pinikit / naive"] for row in rows] == pytest.approx([0.01] * 3)
    assert [row["target"] for row in rows] == [None, None, 0.2]


# --- bank -------------------------------------------------------------------------------------------


def test_bank() -> None:
    table = bank.main([*SMALL, "--data", "digits", "--pictures", "70"])
    (row,) = table.rows
    assert row["Δ"] < 1e-6
    assert row["ratio"] == row["bank pictures/s"] / row["plain pictures/s"]


def test_pictures_are_spread_over_the_data_set() -> None:
    assert bank.spread(range(10), 5) == [0, 2, 4, 6, 8]
    assert bank.spread(range(3), 5) == [0, 1, 2]


# --- scaling ----------------------------------------------------------------------------------------


def test_scaling() -> None:
    table = scaling.main(
        [*SMALL, "--classes", "2", "4", "--shots", "8", "24", "--draws", "1", "2", "--arms", "1", "2"]
    )
    assert [row["over"] for row in table.rows] == ["classes", "shots", "draws", "arms"]
    assert [row["sizes"] for row in table.rows] == ["2 · 4", "8 · 24", "1 · 2", "1 · 2"]


def test_exponents() -> None:
    assert scaling.exponent({size: 3.0 * size**1.5 for size in (1, 2, 8)}) == pytest.approx(1.5)
    assert scaling.exponent({4: 1.0}) is None


# --- study ------------------------------------------------------------------------------------------


@pytest.mark.drill
def test_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "FUSED_ARMS", 2)
    table = study.main([*SMALL, "--classes", "3", "--shots", "2", "--epochs", "1", "--precision", "fp32"])
    whole, fused = table.rows
    assert whole["what"] == "36 runs"
    assert whole["ratio"] == whole["slow s"] / whole["pinikit s"]
    assert fused["what"] == "2 fused runs"
    assert fused["Δ"] < 1e-5


# --- planning ---------------------------------------------------------------------------------------


def test_imports_count_apart() -> None:
    steps = [
        {"step": name, "s": 2.0, "cpu s": 1.0, "peak MB": peak, "found": ""}
        for name, peak in (("import all", 800.0), ("plan", 950.0), ("import more", 960.0), ("show", 965.0))
    ]
    found = planning.total("plan", steps)
    assert (found["s"], found["cpu s"], found["peak MB"]) == (4.0, 2.0, 155.0)
    assert (found["target s"], found["target MB"]) == (5, 500)


@pytest.mark.drill
def test_planning() -> None:
    table = planning.main(["--arms", "1600", "--runs", "60", "--seeds", "2", "--json"])
    assert table is not None
    found = {(row["what"], row["step"]): row for row in table.rows}
    assert found["plan", "plan"]["found"].startswith("1441 arms, ")
    assert found["report", "read"]["found"] == "62 runs"
    assert found["report", "total"]["target s"] == 30


# --- the table --------------------------------------------------------------------------------------


def test_class_names_are_real_and_different() -> None:
    for count in (1, 10, 100, 1000):
        assert len(set(_tools.class_names(count))) == count
    with pytest.raises(ValueError, match="found 1001"):
        _tools.class_names(1001)


def test_sections_are_replaced_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    for name, text in (("step", "old"), ("bank", "kept"), ("step", "new")):
        facts = {"command": "c", "date": "d", "machine": "m", "versions": "v"}
        table = _tools.Table(name, name, [{"ratio": 2.0, "target": None}], [text])
        _tools.write_section(path, name, _tools.as_markdown(table, facts))
    written = path.read_text(encoding="utf-8")
    assert "old" not in written
    assert written.index("new") < written.index("kept")
    assert written.count("| 2 | – |") == 2
    assert written.count("<!-- step -->") == 1
