"""The HTML page: what stands in it, what is left out, what it costs; without a browser."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from fabricated import ACCURACIES, STUDY, make_axes_result, make_result
from furnished import furnish

from pinikit.api import StudyResult
from pinikit.reporting import PAGE, write_page, write_report
from pinikit.reporting.html.comparison import pareto
from pinikit.reporting.html.examples import examples
from pinikit.reporting.html.material import Material
from pinikit.reporting.html.page import html_page
from pinikit.study.saved import _Gone

VOID = {"meta", "link", "img", "br", "input"}
NO_BASELINE = STUDY.replace("  baseline: zero_shot\n", "")


class Reader(HTMLParser):
    """Collects what a page is made of; complains of tags that are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.tags: Counter[str] = Counter()
        self.text: list[str] = []
        self.feed(page)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        found = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch(r"h\d", tag):
            self.headings.append((int(tag[1]), ""))
        if "id" in found:
            self.ids[found["id"] or ""] += 1
        self.links += [found[name] or "" for name in ("src", "href", "xlink:href") if name in found]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and re.fullmatch(r"h\d", self.open[-1]):
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)
        if "style" not in self.open and "script" not in self.open:
            self.text.append(data)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """A study with a failed run, whose runs have folders."""
    accuracies = {**ACCURACIES, "text_side": (61.2, None, 62.9)}
    return furnish(make_result(tmp_path_factory.mktemp("study"), accuracies=accuracies))


@pytest.fixture(scope="module")
def page(result: StudyResult) -> str:
    return html_page([result])


def test_page_is_sound_html(page: str) -> None:
    reader = Reader(page)
    assert [name for name, count in reader.ids.items() if count > 1] == []
    levels = [level for level, _ in reader.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_page_loads_nothing(page: str) -> None:
    links = Reader(page).links
    assert all(link.startswith(("#", "data:")) for link in links)
    targets = {link[1:] for link in links if link.startswith("#")}
    assert targets <= set(Reader(page).ids)
    assert "http" not in page.replace("http-equiv", "").replace(
        'xmlns:xlink="http://www.w3.org/1999/xlink"', ""
    )


def test_every_section_is_there(page: str) -> None:
    titles = [text for level, text in Reader(page).headings if level == 2]
    assert titles == [
        "Results",
        "Accuracy",
        "Differences to zero_shot",
        "Accuracy against cost",
        "Learning curves",
        "Classes",
        "Calibration",
        "Where the noise goes",
        "Pictures whose prediction changed",
        "What is missing",
        "How to read the numbers",
        "How to reproduce it",
    ]


def test_page_says_what_came_out(page: str, result: StudyResult) -> None:
    text = " ".join(" ".join(Reader(page).text).split())
    assert "is the most accurate: 76.20 ± 3.11 % test accuracy on digits with 4 shots" in text
    assert "injections.text: gaussian(std=sign_free) from free at prompt_template" in text
    assert "FloatingPointError: the loss is NaN in epoch 3" in text
    assert "length over channels of the noise's mean μ" in text
    assert "pinikit run" in text
    assert "Python 3.11.0 on Linux (cpu, 2 threads): torch 2.6" in text
    assert all(run.manifest.hash in page for run in result.study.runs)


def test_figures_take_the_pages_colours(page: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(figures) == 7
    for svg in figures:
        assert 'role="img"' in svg
        assert re.search(r'aria-label="[^"]{20,}"', svg)
        assert "var(--" in svg
        assert "DejaVu" not in svg
        assert not re.findall(r"#[0-9a-f]{6}\b", svg)


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    study = STUDY.replace("both:", f"'{evil}':").replace("Where does", f"{evil} Where does")
    accuracies = {evil if arm == "both" else arm: values for arm, values in ACCURACIES.items()}
    reader = Reader(html_page([furnish(make_result(tmp_path, study, accuracies))]))
    assert reader.tags["script"] == 1
    assert evil in "".join(reader.text)


def test_sections_without_data_are_left_out(tmp_path: Path) -> None:
    result = make_result(tmp_path, NO_BASELINE)
    titles = [text for level, text in Reader(html_page([result])).headings if level == 2]
    assert titles == [
        "Results",
        "Accuracy",
        "Accuracy against cost",
        "How to read the numbers",
        "How to reproduce it",
    ]


def test_nothing_finished(tmp_path: Path) -> None:
    result = make_result(tmp_path, accuracies=dict.fromkeys(ACCURACIES, (None, None, None)))
    text = "".join(Reader(html_page([result])).text)
    assert "No run finished" in text
    assert "12 runs failed" in text


def test_pictures_that_are_gone_are_said_to_be(result: StudyResult) -> None:
    assert "picture cannot be read" not in shown_examples(result)
    runs = tuple(dataclasses.replace(run, dataset=_Gone()) for run in result.study.runs)
    gone = dataclasses.replace(result, study=dataclasses.replace(result.study, runs=runs))
    assert "picture cannot be read" in shown_examples(gone)


def shown_examples(result: StudyResult) -> str:
    section = examples(Material(result, "s1", 3))
    assert section is not None
    return section.body


def test_several_studies_stand_side_by_side(tmp_path: Path) -> None:
    result = make_result(tmp_path)
    other = make_result(tmp_path, STUDY.replace("name: sites", "name: others"))
    reader = Reader(html_page([result, other]))
    assert [name for name, count in reader.ids.items() if count > 1] == []
    assert [text for level, text in reader.headings if level == 2] == ["sites", "others"]
    assert "Test accuracy (%) of 4 arms in 2 studies" in "".join(reader.text)


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    result = make_result(tmp_path)
    assert html_page([result]) == html_page([result])


def test_a_page_is_written_when_results_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, written = make_result(tmp_path), list[int]()

    def page(results: Sequence[StudyResult], digest: str) -> str:
        written.append(len(results[0].results))
        return f"<meta name='pinikit-content' content='{digest}'>"

    monkeypatch.setattr("pinikit.reporting.html.page.html_page", page)
    monkeypatch.setattr("pinikit.reporting._draw", lambda result: None)
    monkeypatch.setattr("pinikit.reporting.FIGURES", ())
    write_report(result)
    write_report(result)
    assert written == [12]
    (result.folder / PAGE).unlink()
    write_report(result)
    assert written == [12, 12]
    fewer = dataclasses.replace(result, results=dict(list(result.results.items())[:-1]))
    write_report(fewer)
    write_page([fewer, result], tmp_path / "both.html")
    write_page([fewer, result], tmp_path / "both.html")
    assert written == [12, 12, 11, 11]


def test_many_arms_are_capped_and_told(tmp_path: Path) -> None:
    arms = "".join(f"    a{index}: {{method.optim.lr: {index + 1}.0e-5}}\n" for index in range(500))
    text = STUDY.split("    text_side:")[0] + arms + "seeds: [1]\n"
    accuracies = {"zero_shot": (50.0,)} | {f"a{index}": (40 + index / 10,) for index in range(500)}
    found = html_page([make_result(tmp_path, text, accuracies)])
    assert "400 of 501 arms are shown" in found
    assert "30 of 501 arms are shown" in found
    assert len(found) < 2_000_000
    shown = re.findall(r'<th scope="row">(?:<strong>)?(\w+)', found)
    assert {"zero_shot", "a499", "a101"} <= set(shown)
    assert "a99" not in shown


@pytest.mark.parametrize("seed", range(20))
def test_front_is_that_of_all_pairs(seed: int) -> None:
    import random

    stream = random.Random(seed)
    points = [(stream.randrange(8), stream.randrange(8)) for _ in range(12)]

    def beaten(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return other != one and other[0] <= one[0] and other[1] >= one[1]

    best = {point for point in points if not any(beaten(point, other) for other in points)}
    assert {points[index] for index in pareto(points)} == best
    assert len(pareto(points)) == len(best)


def test_settings_are_lines_and_tables(tmp_path: Path) -> None:
    page = html_page([make_axes_result(tmp_path)])
    assert "Settings" in [heading for _, heading in Reader(page).headings]
    drawn = page[page.index('aria-label="Test accuracy by data.shots."') :]
    panels = re.findall(r">data.name=(\w+)</text>", drawn[: drawn.index("</svg>")])
    assert panels == ["digits", "dtd"]
