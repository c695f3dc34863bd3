"""The page as a reader has it: opened from disk in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import MISSING, Browser, browser
from fabricated import ACCURACIES, make_result
from furnished import furnish

from pinikit.reporting.html.page import html_page

pytestmark = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")

ARMS = "return [...document.querySelectorAll('#main table.sortable')[0].tBodies[0].rows].map(r => r.cells[0].firstChild.textContent)"
HEADS = "return [...document.querySelectorAll('#main table.sortable')[0].querySelectorAll('thead th')].map(h => h.ariaSort)"
BACKGROUND = "return getComputedStyle(document.body).backgroundColor"
INK = "return getComputedStyle(document.querySelector('figure svg text')).fill"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a failed arm, whose accuracy is unknown."""
    folder = tmp_path_factory.mktemp("page")
    result = make_result(folder, accuracies={**ACCURACIES, "text_side": (None, None, None)})
    path = folder / "report.html"
    path.write_text(html_page([furnish(result)]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tab(page: Path) -> Iterator[Browser]:
    with browser() as opened:
        opened.open(page)
        yield opened


@pytest.fixture(autouse=True)
def _fresh(tab: Browser, page: Path) -> None:
    tab.emulate()
    tab.open(page)
    tab.run("localStorage.clear()")
    tab.open(page)


def click(tab: Browser, head: str) -> None:
    tab.run(
        "document.querySelectorAll('thead')[0].querySelectorAll('button').forEach(b => { if (b.textContent === arguments[0]) b.click() })",
        head,
    )


def test_page_loads_itself_and_nothing_else(tab: Browser, page: Path) -> None:
    tab.complaints()
    tab.requests()
    tab.open(page)
    tab.run("document.getElementById('theme').click()")
    click(tab, "accuracy")
    assert [url for url in tab.requests() if not url.startswith("data:")] == [page.resolve().as_uri()]
    assert tab.complaints() == []


def test_table_is_sorted_by_its_heads(tab: Browser) -> None:
    assert tab.run(ARMS) == ["zero_shot", "text_side", "image_side", "both"]
    click(tab, "accuracy")
    assert tab.run(ARMS) == ["both", "image_side", "zero_shot", "text_side"]
    assert tab.run(HEADS)[:2] == ["none", "descending"]
    click(tab, "accuracy")
    assert tab.run(ARMS) == ["zero_shot", "image_side", "both", "text_side"]  # the unknown stays last
    click(tab, "arm")
    assert tab.run(ARMS) == sorted(["zero_shot", "text_side", "image_side", "both"])
    assert tab.run(HEADS)[:2] == ["ascending", "none"]


def test_table_is_sorted_from_the_keyboard(tab: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    button = tab.driver.find_element("css selector", "thead th:nth-child(2) button")
    button.send_keys(Keys.ENTER)
    assert tab.run(HEADS)[1] == "descending"
    tab.driver.find_element("tag name", "body").send_keys(Keys.TAB)
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert tab.run(outline) != "none"


def test_first_stop_of_the_keyboard_skips_to_the_results(tab: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    tab.driver.find_element("tag name", "body").send_keys(Keys.TAB)
    assert tab.run("return document.activeElement.className") == "skip"
    tab.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert tab.run("return document.activeElement.id") == "main"


def test_theme_follows_the_system_until_it_is_chosen(tab: Browser, page: Path) -> None:
    light, light_ink = tab.run(BACKGROUND), tab.run(INK)
    tab.emulate(dark=True)
    dark, dark_ink = tab.run(BACKGROUND), tab.run(INK)
    assert (light, light_ink) != (dark, dark_ink)
    assert light_ink != dark_ink
    pressed = "return document.getElementById('theme').getAttribute('aria-pressed')"
    assert tab.run(pressed) == "true"
    tab.run("document.getElementById('theme').click()")
    assert (tab.run(BACKGROUND), tab.run(pressed)) == (light, "false")
    tab.open(page)  # it is remembered
    assert tab.run(BACKGROUND) == light


def test_text_can_be_read_in_both_themes(tab: Browser) -> None:
    for dark in (False, True):
        tab.emulate(dark=dark)
        for selector in ("p.headline", "caption", "figcaption", "tbody small", "nav a", "figure svg text"):
            assert contrast(tab, selector) >= 4.5, (selector, dark)


def contrast(tab: Browser, selector: str) -> float:
    """Of text and page, after WCAG 2."""
    script = (
        "const style = getComputedStyle(document.querySelector(arguments[0]));"
        "return [arguments[0].includes('svg') ? style.fill : style.color, getComputedStyle(document.body).backgroundColor]"
    )
    one, other = sorted(map(luminance, tab.run(script, selector)))
    return (other + 0.05) / (one + 0.05)


def luminance(colour: str) -> float:
    channels = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_nothing_sticks_out_on_a_small_screen(tab: Browser) -> None:
    tab.screenshot(375)
    assert tab.run("return document.documentElement.scrollWidth") <= 375
    tab.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_page_is_printed_in_light_colours(tab: Browser) -> None:
    assert tab.pdf().startswith(b"%PDF")
    tab.emulate(dark=True, media="print")
    assert tab.run(BACKGROUND) == "rgb(255, 255, 255)"
    assert tab.run("return getComputedStyle(document.querySelector('nav')).display") == "none"
    tab.screenshot(690)  # what A4 leaves between its margins
    wide = "return [...document.querySelectorAll('table')].filter(t => t.scrollWidth > 690).map(t => t.innerText)"
    assert tab.run(wide) == []
    tab.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
