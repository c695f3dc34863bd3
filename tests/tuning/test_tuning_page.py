"""The page of a search."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from made_up import make_result, measured_again
from markupsafe import Markup
from test_html_page import Reader

from pinikit.reporting.html import tuning_figures
from pinikit.reporting.html.tuning import Findings, fresh, tuning_page
from pinikit.tuning.confirm import confirmed
from pinikit.tuning.results import TuneResult

COMMAND = "pinikit run runs/studies/made_up/best.yaml"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    return make_result(tmp_path_factory.mktemp("search"), trials=60)


@pytest.fixture(scope="module")
def page(result: TuneResult) -> str:
    return tuning_page(result, None, COMMAND)


def words(page: str) -> str:
    return " ".join(" ".join(Reader(page).text).split())


def titles(page: str) -> list[str]:
    return [text for level, text in Reader(page).headings if level == 2]


def test_page_is_sound_and_loads_nothing(page: str) -> None:
    reader = Reader(page)
    assert [name for name, count in reader.ids.items() if count > 1] == []
    assert all(after - before <= 1 for before, after in pairwise(level for level, _ in reader.headings))
    assert all(link.startswith(("#", "data:")) for link in reader.links)
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids)


def test_sections_and_figures(page: str) -> None:
    assert titles(page) == [
        "On fresh seeds",
        "Best trials",
        "History",
        "What matters",
        "Parameter by parameter",
        "Parallel coordinates",
        "By epoch",
        "What failed",
        "What it cost",
        "What was open",
        "How to reproduce it",
    ]
    figures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(figures) == 5
    for svg in figures:
        assert re.search(r'aria-label="[^"]{20,}"', svg)
        assert not re.findall(r"#[0-9a-f]{6}\b", svg)  # the page's colours, light or dark


def test_page_says_what_came_out(page: str, result: TuneResult) -> None:
    text = words(page)
    assert f"In the search {result.best()[0].name} is the best of" in text
    assert "60 trials asked for" in text
    assert COMMAND in text
    assert "val: a part of train is held out." in text
    assert "FloatingPointError: the loss is NaN in epoch 2" in text
    assert "0.05 s per trial" in text
    assert result.request.command in text
    assert "injections.image.noise=student_t.df" in text


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take the most time, and are looked at above."""
    monkeypatch.setattr(tuning_figures, "inline_svg", lambda *figure: Markup(""))


@pytest.mark.usefixtures("undrawn")
def test_fresh_seeds_stand_beside_the_search(result: TuneResult, tmp_path: Path) -> None:
    lead = {row.name: 2.0 - place for place, row in enumerate(result.best())}
    found = confirmed(result, *measured_again(result, tmp_path, lead))
    text = words(tuning_page(result, found, COMMAND))
    assert f"{result.best()[0].name} beats base by +" in text
    assert "validation, search validation, fresh change test, fresh test, Δ to base" in text
    assert "neither fresh seeds nor the test set had a say in the choice" in text
    assert f"Of the other arms {result.best()[1].name} (p = 0.003) beats base" in text
    assert "corrected for 2 comparisons (paired t-tests, Holm)." in text
    assert "How many validation pictures of the fresh seeds the search had seen is not known here." in text
    assert COMMAND not in text
    assert "the search had seen 52 % of those of a fresh seed" in words(
        tuning_page(result, replace(found, seen=0.518), COMMAND)
    )
    lacking = replace(found, seeds=5)
    assert "of 5 fresh seeds 4 of" in words(tuning_page(result, lacking, COMMAND))
    assert COMMAND in words(tuning_page(result, lacking, COMMAND))


def test_runs_that_are_not_shown_are_explained(result: TuneResult) -> None:
    section = fresh(Findings(result, "its seeds are odd", COMMAND))
    assert section is not None
    assert "are not shown: its seeds are odd." in section.body


def test_several_metrics_have_a_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = make_result(tmp_path, ["tune.metrics=[accuracy,nll,seconds]"], trials=20)
    drawn, caption = tuning_figures.pareto(found)
    assert drawn.count("validation NLL (nats)") == 2  # the vertical axis beside accuracy, the other with time
    assert all(f"`trial_{number}`" in caption for number in found.front[-5:])
    monkeypatch.setattr(tuning_figures, "inline_svg", lambda *figure: Markup(""))
    page = tuning_page(found, None, COMMAND)
    assert "Pareto front" in titles(page)
    assert "are beaten by no other in every metric" in words(page)


def test_parallel_lines_are_whole(result: TuneResult) -> None:
    drawn, caption = tuning_figures.parallel(result)  # type: ignore[misc]  # there are parameters
    assert "A line goes through – where the trial has no such parameter." in caption
    lines = re.findall(r'<path d="(M[^"]*)" clip-path', drawn)
    axes = len(
        {name for row in result.complete for name in row.params} & set(tuning_figures._leading(result, 7)[0])
    )
    whole = [line for line in lines if line.count("M") == 1 and line.count("L") == axes]
    assert len(whole) >= sum(bool(row.params) for row in result.complete)


def test_a_pruner_that_compares_seeds_is_shown_by_seed(result: TuneResult) -> None:
    rows = [replace(row, steps=dict(enumerate(row.steps.values()))) for row in result.trials]
    found = replace(result, step="seed", seeds=(11, 12, 13, 14), trials=tuple(rows))
    drawn, caption = tuning_figures.steps(found)  # type: ignore[misc]  # there are steps
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert [text for text in texts if text.isdigit() and int(text) < 20] == ["11", "12", "13", "14"]
    assert "seed" in texts
    assert "epoch" not in drawn
    assert caption.startswith("Each seed's value, as the pruner saw it")
    assert "the mean of the seeds that they had" in tuning_figures.history(found)[1]


@pytest.mark.usefixtures("undrawn")
def test_a_search_without_complete_trials(result: TuneResult) -> None:
    rows = tuple(replace(row, state="failed", values=(), by_seed={}) for row in result.trials)
    page = tuning_page(replace(result, trials=rows, importances=()), None, COMMAND)
    assert "None of 60 trials is complete" in words(page)
    assert "History" not in titles(page)
