"""The built book in a browser, in both themes, on a screen and on a phone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

HTML = Path(__file__).resolve().parents[2] / "_build" / "html"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (1400, 390)
THEMES = ("light", "dark")
EVIDENCE = sorted(file.stem for file in (HTML / "book" / "pages").glob("*.html"))
A4 = 680
"""Pixels between the margins of a printed page: 180 mm of 96 pixels an inch."""
SLOW = 20_000
"""Milliseconds to wait for a page: all of it comes from the disk."""


@pytest.fixture(scope="session")
def browser(html: Path) -> Iterator[object]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser'")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=THEMES)
def theme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Any, theme: str) -> Iterator[Any]:
    """A window of one width and theme. It records what pages ask for and complain of."""
    context = browser.new_context(viewport={"width": request.param, "height": 1000}, color_scheme=theme)
    context.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")
    opened = context.new_page()
    opened.set_default_timeout(SLOW)
    opened.requested, opened.complaints = [], []
    opened.on("request", lambda each: opened.requested.append(each.url))
    opened.on("console", lambda each: opened.complaints.append(each.text) if each.type == "error" else None)
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    yield opened
    context.close()


def visit(page: Any, file: Path) -> None:
    page.requested.clear()
    page.complaints.clear()
    page.goto(file.as_uri())
    page.wait_for_load_state("load")


def every_page(html: Path) -> list[Path]:
    return sorted((html / "book").rglob("*.html"))


def test_no_page_scrolls_sideways_complains_or_asks_for_anything_elsewhere(page: Any, html: Path) -> None:
    found = []
    for file in every_page(html):
        visit(page, file)
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        cut = page.evaluate(
            "[...document.querySelectorAll('pre')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        )
        if cut and page.viewport_size["width"] > 600:
            found.append(f"{file.name}: {cut} blocks of code are cut off")
        stops = page.evaluate("document.querySelectorAll('mjx-container[tabindex]').length")
        if stops:
            found.append(f"{file.name}: {stops} formulas are stops of the keyboard")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wide > 1:
            found.append(f"{file.name}: {wide} pixels wider than the window")
        found += [f"{file.name}: {text}" for text in page.complaints]
        found += [f"{file.name}: {url}" for url in page.requested if not url.startswith(("file:", "data:", "blob:"))]
    assert found == []


@pytest.mark.parametrize("name", [*(f"pages/{name}" for name in EVIDENCE), "method", "rerun"])
def test_nothing_is_in_the_way_of_a_screen_reader_or_of_the_keyboard(name: str, page: Any, html: Path) -> None:
    """What axe calls serious or critical."""
    spec = find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.submodule_search_locations
    visit(page, html / "book" / f"{name}.html")
    page.add_script_tag(path=str(Path(spec.submodule_search_locations[0]) / "axe.min.js"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    grave = [
        (each["id"], each["nodes"][0]["html"][:200]) for each in found if each["impact"] in ("serious", "critical")
    ]
    assert grave == []


@pytest.mark.parametrize("name", [*EVIDENCE, *(f"../executed/{name}" for name in ("quickstart", "sparse", "imagenet"))])
def test_one_picture_of_every_figure_is_shown_with_text_to_read(name: str, page: Any, html: Path, theme: str) -> None:
    """At least 11 pixels on a screen and 9 on a phone."""
    visit(page, html / "book" / "pages" / f"{name}.html")
    least = 11 if page.viewport_size["width"] > 600 else 9
    figures = page.evaluate(
        """async () => {
            const shown = [...document.querySelectorAll('img.picture')].filter(i => i.offsetWidth > 0);
            await Promise.all(shown.map(i => { i.loading = 'eager'; return i.decode(); }));
            return [...document.querySelectorAll('figure:has(.pictures), .cell_output .pictures')]
            .filter(f => f.offsetParent !== null)
            .map(f => [...f.querySelectorAll('img')].filter(i => i.offsetWidth > 0)
                .map(i => [i.getAttribute('src'), i.offsetWidth, i.naturalWidth, i.alt])); }"""
    )
    for shown in figures:
        assert len(shown) == 1, shown
        source, width, natural, alt = shown[0]
        assert f".{theme}" in source
        assert (".narrow." in source) == (page.viewport_size["width"] < 600)
        assert 5 <= len(alt.split()) <= 60
        size = 9 if ".narrow." not in source else 8
        pixels = size * 4 / 3 * width / natural
        assert pixels >= least, f"{source}: text of {pixels:.1f} pixels"
    if name not in ("index", "explorer"):
        assert figures


def test_a_term_shows_its_definition_to_pointer_and_keyboard_inside_the_window(page: Any, html: Path) -> None:
    visit(page, html / "book" / "pages" / "stability.html")
    terms = page.locator(".term:visible")
    assert terms.count() >= 3
    for term in terms.all():
        link, definition = term.locator("a"), term.locator(".definition")
        assert definition.is_hidden()
        for show in (link.hover, link.focus):
            show()
            assert definition.is_visible()
            box = definition.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= page.viewport_size["width"]
            page.keyboard.press("Escape")
            assert definition.is_hidden()
        page.mouse.move(0, 0)
        link.blur()


def test_numbers_in_tables_stand_on_the_right_and_words_on_the_left(page: Any, html: Path) -> None:
    numbers, found = 0, []
    for file in every_page(html):
        visit(page, file)
        cells = page.evaluate(
            """[...document.querySelectorAll('.bd-article :is(tbody td, tbody th)')]
                .map(cell => [cell.textContent.trim(), getComputedStyle(cell).textAlign])"""
        )
        for text, align in cells:
            if re.fullmatch(r"[-+−<]? ?\d[\d,.]*%?( \([-+]?[\d.]+ to [-+]?[\d.]+\))?", text):
                numbers += 1
                found += [(file.name, text, align)] if align not in ("right", "end") else []
            elif re.search(r"[a-z]{3}", text) and not re.search(r"\d", text):
                found += [(file.name, text, align)] if align not in ("left", "start") else []
    assert found == []
    assert numbers > 1000


def test_start_shows_the_idea_the_findings_and_the_claims_at_once(page: Any, html: Path) -> None:
    """On a screen of 1400 x 1000 pixels, without scrolling."""
    visit(page, html / "book" / "pages" / "index.html")
    findings = page.locator(".start ol.simple > li")
    assert findings.count() == 3
    for number in range(3):
        assert findings.nth(number).locator(".badge").is_visible()
        assert findings.nth(number).locator("a.verdict").first.is_visible()
    boxes = [findings.nth(number).bounding_box() for number in range(3)]
    idea, matrix = page.locator(".stepwise").bounding_box(), page.locator(".matrix").bounding_box()
    width = page.viewport_size["width"]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in (*boxes, idea, matrix))
    assert all(box["y"] + box["height"] <= matrix["y"] for box in (*boxes, idea))
    if width > 600:
        assert max(box["y"] + box["height"] for box in boxes) <= 900
        assert max(box["y"] + box["height"] for box in (idea, matrix)) <= 1000
        assert page.locator(".matrix").evaluate("e => e.scrollWidth <= e.clientWidth")


SHOWN = """() => Promise.all(document.getAnimations().map(a => a.finished)).then(() =>
    [...document.querySelectorAll('.stepwise svg [data-step]')].map(e => Number(getComputedStyle(e).opacity) > 0.5))"""


def test_the_picture_of_rewinding_goes_step_by_step_by_keyboard_and_is_whole_in_print(page: Any, html: Path) -> None:
    visit(page, html / "book" / "pages" / "index.html")
    buttons = page.locator(".stepwise li button")
    assert (buttons.count(), page.evaluate(SHOWN)) == (4, [True] * 4)
    buttons.nth(1).focus()
    page.keyboard.press("Enter")
    assert page.evaluate(SHOWN) == [True, True, False, False]
    assert [each.get_attribute("aria-pressed") for each in buttons.all()] == ["false", "true", "false", "false"]
    page.emulate_media(media="print")
    assert page.evaluate(SHOWN) == [True] * 4
    page.emulate_media(media="screen")
    page.keyboard.press("Enter")
    assert page.evaluate(SHOWN) == [True] * 4


@pytest.mark.parametrize("options", [{"reduced_motion": "reduce"}, {"java_script_enabled": False}], ids=str)
def test_without_motion_or_scripts_all_steps_are_shown(options: dict[str, Any], browser: Any, html: Path) -> None:
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto((html / "book" / "pages" / "index.html").as_uri())
    assert page.locator(".stepwise li button").count() == 0
    assert page.locator(".stepwise svg .later").count() == 0
    assert page.locator(".stepwise li").count() == 4
    context.close()


def test_without_scripts_the_explorer_has_a_picture_and_a_table(browser: Any, html: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((html / "book" / "pages" / "explorer.html").as_uri())
    assert page.locator("#explorer-picture img").first.bounding_box()["width"] > 200
    assert page.locator("#explorer-table tr").count() > 3
    context.close()


PLACE = """() => { const e = document.activeElement;
    const seen = [e, ...e.querySelectorAll('*')].map(each => each.getBoundingClientRect())
        .some(box => box.width * box.height);
    return [[...document.querySelectorAll('*')].indexOf(e), seen, e.outerHTML.slice(0, 120)]; }"""


@pytest.mark.parametrize("name", ["index", "rescue", "explorer"])
def test_the_keyboard_goes_through_a_page_in_its_order(name: str, page: Any, html: Path) -> None:
    visit(page, html / "book" / "pages" / f"{name}.html")
    places = []
    for _ in range(50):
        page.keyboard.press("Tab")
        place, seen, text = page.evaluate(PLACE)
        if "<body" in text:
            break
        assert seen, text
        places.append(place)
    assert len(places) > 10
    assert places == sorted(set(places))


def test_links_of_every_figure_lead_to_files_that_say_the_same(page: Any, html: Path) -> None:
    links = 0
    for name in EVIDENCE:
        file = html / "book" / "pages" / f"{name}.html"
        visit(page, file)
        for target in page.evaluate("[...document.querySelectorAll('figure a')].map(a => a.getAttribute('href'))"):
            if target.startswith("#"):
                continue
            path = (file.parent / re.split("[?#]", target)[0]).resolve()
            assert path.exists(), f"{name}: {target}"
            if path.suffix == ".csv":
                numbers = pd.read_csv(path)
                assert {"series", "x", "mean", "low", "high"} <= set(numbers.columns)
                about = json.loads(path.with_suffix(".json").read_text())
                assert about["command"].startswith("papermill notebooks/")
                links += 1
    assert links >= 10


def test_the_search_finds_what_readers_ask_for(browser: Any, html: Path) -> None:
    page = browser.new_page()
    for word, expected in {"cost": "cost", "csv": "rerun", "Figure 5": "rerun"}.items():
        page.goto(f"{(html / 'search.html').as_uri()}?q={word.replace(' ', '+')}")
        page.wait_for_selector("ul.search li a", timeout=SLOW)
        first = page.evaluate("[...document.querySelectorAll('ul.search li a')].map(a => a.getAttribute('href'))")[0]
        assert "api" not in first, f"{word}: {first}"
        assert expected in first, f"{word}: {first}"
    page.close()


@pytest.fixture(scope="module")
def sheet(browser: Any, theme: str) -> Iterator[Any]:
    """A window as wide as a printed page, that shows what would be printed."""
    context = browser.new_context(viewport={"width": A4, "height": 1000}, color_scheme=theme)
    context.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")
    opened = context.new_page()
    opened.set_default_timeout(SLOW)
    opened.emulate_media(media="print")
    opened.requested, opened.complaints = [], []
    yield opened
    context.close()


@pytest.mark.parametrize("name", ["executed/claims", "executed/provenance", "executed/costs", "pages/index", "cite"])
def test_nothing_is_cut_on_paper(name: str, sheet: Any, html: Path) -> None:
    """What ends beyond the page, and what would have to be scrolled."""
    visit(sheet, html / "book" / f"{name}.html")
    cut = sheet.evaluate(
        """() => [...document.querySelectorAll('body *')].filter(e => e.getClientRects().length)
            .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
                || (e.scrollWidth > e.clientWidth + 1 && e.clientWidth && getComputedStyle(e).overflowX !== 'visible'))
            .map(e => [e.tagName, e.className, e.textContent.slice(0, 60)])"""
    )
    assert cut == []


@pytest.mark.parametrize("name", ["rescue", "stability"])
def test_paper_has_all_figures_and_tabs_black_on_white_and_no_navigation(name: str, sheet: Any, html: Path) -> None:
    visit(sheet, html / "book" / "pages" / f"{name}.html")
    shown = sheet.evaluate(
        """() => { const seen = s => [...document.querySelectorAll(s)].filter(e => e.checkVisibility());
            return {
                pictures: seen('figure img.picture').map(e => e.className),
                figures: document.querySelectorAll('figure:has(.pictures)').length,
                tabs: document.querySelectorAll('.sd-tab-content').length - seen('.sd-tab-content').length,
                commands: seen('details pre').length,
                navigation: seen('nav:not(#jb-print-toc *), aside, .bd-header, .prev-next-area, .btn').length,
                ink: getComputedStyle(document.querySelector('article p')).color,
                paper: getComputedStyle(document.documentElement).backgroundColor,
            }; }"""
    )
    assert shown["pictures"]
    assert all({"light", "wide"} <= set(classes.split()) for classes in shown["pictures"])
    assert shown["commands"] == shown["figures"] == len(shown["pictures"])
    assert shown["tabs"] == shown["navigation"] == 0
    assert (shown["ink"], shown["paper"]) == ("rgb(0, 0, 0)", "rgb(255, 255, 255)")
