"""The page in a real browser: nothing is loaded, nothing breaks, all is shown and found, wide and narrow."""

import json
import re
from itertools import product
from pathlib import Path

import pytest

from jitunwind.explain.html import page as make_page
from jitunwind.explain.model import Explained
from tests.explain.made import HOSTILE, origin, region, summary, wrong_everywhere
from tools.browser import Page, address

WIDE, PHONE = (1280, 900), (390, 800)
LEAST_CONTRAST = 4.5
"""WCAG 2.2, 1.4.3."""


@pytest.fixture(scope="module")
def regions() -> list[Explained]:
    return [region(0), region(1, blocks=9), region(2, file="/tmp/plain.py")]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, regions: list[Explained]) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    warnings = [f"a warning about {HOSTILE}"]
    path.write_text(make_page(origin(), summary(*regions), regions, warnings))
    return path


@pytest.fixture(autouse=True)
def wide(browser: Page) -> None:
    browser.resize(*WIDE)
    browser.prefer("light")


def seen(browser: Page, selector: str) -> int:
    """How many elements are to be seen."""
    script = f"[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.getClientRects().length).length"
    count: int = browser.evaluate(script)
    return count


@pytest.mark.parametrize(("size", "scheme"), list(product((WIDE, PHONE), ("light", "dark"))))
def test_it_loads_nothing_else_and_nothing_breaks(
    size: tuple[int, int], scheme: str, browser: Page, written: Path
) -> None:
    browser.resize(*size)
    browser.prefer(scheme)
    browser.open(address(written))
    assert browser.complaints == []
    assert [url for url in browser.requests if url != address(written)] == []
    assert seen(browser, ".ins") == 12


def test_its_policy_forbids_to_load_anything(browser: Page, written: Path) -> None:
    browser.open(address(written))
    tries = 'fetch("https://example.org/").then(() => "loaded", () => "refused")'
    assert browser.evaluate(tries) == "refused"
    assert any("Content Security Policy" in each for each in browser.complaints)


def test_names_of_the_process_are_text(browser: Page, written: Path) -> None:
    browser.open(address(written))
    browser.click(".ins")
    assert browser.evaluate("window.broken") is None
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    for selector in ("h1", "h2", "td.name", ".python", ".warnings"):
        text = f"document.querySelector({json.dumps(selector)}).textContent"
        assert HOSTILE in browser.evaluate(text), selector


@pytest.mark.parametrize("width", [320, 390, 640, 768, 1080, 1440])
def test_it_is_never_wider_than_the_window(width: int, browser: Page, written: Path) -> None:
    browser.resize(width, 800)
    browser.open(address(written))
    browser.click(".ins")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    outside = (
        "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
        " && !e.closest('.scroll, .hidden')).map(e => e.outerHTML.slice(0, 100))"
    )
    assert browser.evaluate(outside) == []


def test_on_a_phone_the_columns_stand_below_one_another(browser: Page, written: Path) -> None:
    script = "['.place', '.uop', '.code'].map(s => document.querySelector(s).getBoundingClientRect().top)"
    browser.open(address(written))
    assert len({round(top) for top in browser.evaluate(script)}) == 1
    browser.resize(*PHONE)
    browser.open(address(written))
    tops = browser.evaluate(script)
    assert sorted(set(tops)) == tops


CONTRAST = """
(() => {
  const lit = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = e => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$|transparent/.test(color)) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = {};
  for (const e of document.querySelectorAll("body *")) {
    if (!e.getClientRects().length || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const [a, b] = [lit(getComputedStyle(e).color), lit(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05), key = `${e.tagName}.${e.className}`;
    if (!(key in found) || ratio < found[key]) found[key] = ratio;
  }
  return found;
})()
"""


@pytest.mark.parametrize(("scheme", "chosen"), list(product(("light", "dark"), (None, "light", "dark"))))
def test_all_text_has_contrast_enough(scheme: str, chosen: str | None, browser: Page, written: Path) -> None:
    browser.prefer(scheme)
    browser.open(address(written, f"search=total&theme={chosen}" if chosen else "search=push"))
    browser.click(".ins.differs")
    ratios = browser.evaluate(CONTRAST)
    assert len(ratios) > 15
    assert {key: ratio for key, ratio in ratios.items() if ratio < LEAST_CONTRAST} == {}
    dark = browser.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == ((chosen or scheme) == "dark")


def test_the_button_changes_between_light_and_dark(browser: Page, written: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.open(address(written))
    before = browser.evaluate(ground)
    browser.click("#theme")
    assert browser.evaluate(ground) != before
    browser.click("#theme")
    assert browser.evaluate(ground) == before


def test_every_jump_is_drawn_from_its_instruction_to_its_target(
    browser: Page, written: Path, regions: list[Explained]
) -> None:
    browser.open(address(written, "region=1"))
    script = """[...document.querySelectorAll(".jumps g")].map(g => {
      const [from, to] = g.dataset.jump.split(",").map(Number), box = g.querySelector(".wire").getBoundingClientRect();
      const middle = offset => {
        const at = shown.rows.get(offset).querySelector(".at").getBoundingClientRect();
        return at.top + at.height / 2;
      };
      const [top, bottom] = [middle(from), middle(to)].sort((a, b) => a - b);
      return [from, to, Math.abs(box.top - top) <= 1 && Math.abs(box.bottom - bottom) <= 1];
    })"""
    drawn = browser.evaluate(script)
    assert [tuple(each) for each in drawn] == [(jump.source, jump.target, True) for jump in regions[1].jumps]


def test_a_jump_lights_up_below_the_mouse(browser: Page, written: Path) -> None:
    browser.open(address(written))
    browser.hover('.ins[data-offset="8"] .text')
    assert browser.evaluate("[...document.querySelectorAll('.jumps g.lit')].map(g => g.dataset.jump)") == [
        "8,0"
    ]
    lit = "[...document.querySelectorAll('.ins.lit')].map(e => e.dataset.offset)"
    assert browser.evaluate(lit) == ["0", "8"]


def test_differing_rows_are_red_and_say_so(browser: Page, written: Path) -> None:
    browser.open(address(written))
    script = """[...document.querySelectorAll(".ins")].map(e => {
      const bad = e.querySelector(".row .bad");
      return bad && [bad.textContent.trim(), getComputedStyle(bad).color];
    })"""
    shown = browser.evaluate(script)
    assert [bool(each) for each in shown] == [False, True, False, False] * 3
    for text, color in filter(None, shown):
        red, green, blue = map(int, re.findall(r"\d+", color))
        assert text == "≠ rbx"
        assert red > 2 * max(green, blue)
    assert "rbx=s for c-56" in browser.evaluate("document.querySelector('.full').textContent")


SEARCHES = {  # instructions and blocks found in the first region
    "_micro_op_1": (4, 1),
    "oparg 2": (4, 1),
    "push": (3, 3),
    "rbp=c-16": (3, 3),
    "0x7f0000000018": (1, 1),
    "no such thing": (0, 0),
}


@pytest.mark.parametrize("query", SEARCHES)
def test_search_leaves_the_blocks_that_have_it(query: str, browser: Page, written: Path) -> None:
    found, blocks = SEARCHES[query]
    browser.open(address(written))
    browser.click("#search")
    browser.type(query)
    browser.wait_until("found.textContent !== ''")  # the page lets somebody type on before it searches
    said = browser.evaluate("document.getElementById('found').textContent")
    if found:
        assert re.search(rf" regions?, {found} of them here$", said), said
    else:
        assert said == f"Nothing found for “{query}”."
        assert browser.evaluate("document.querySelector('.listing .nothing').textContent") == said
    assert seen(browser, ".block") == blocks
    assert browser.evaluate("location.hash").startswith("#region=0&search=")


def test_what_differs_everywhere_is_said_once_and_rows_show_what_differs_besides(
    browser: Page, tmp_path: Path
) -> None:
    path, found = tmp_path / "report.html", wrong_everywhere()
    path.write_text(make_page(origin(), summary(found), [found], []))
    browser.open(address(path))
    assert browser.evaluate("document.querySelector('.everywhere').textContent").startswith(
        "published: rbx and r12 differ at every instruction. rbx=s for c-56, r12=s for c-48."
    )
    marks = "[...document.querySelectorAll('.ins')].map(e => e.querySelector('.row .bad')?.textContent.trim() ?? '')"
    assert browser.evaluate(marks) == ["", "≠ rbp", "", ""]
    assert browser.evaluate("document.querySelector('[data-region] .differs').textContent") == "≠ 1"
    browser.click('.ins[data-offset="0"] .text')
    assert "rbx=s for c-56, r12=s for c-48" in browser.evaluate("document.querySelector('.more').textContent")
    browser.click("#differing")
    assert browser.evaluate("found.textContent") == "1 instruction found in 1 region, 1 of them here"


def test_code_that_no_path_reaches_is_counted_apart(browser: Page, tmp_path: Path) -> None:
    path, found = tmp_path / "report.html", wrong_everywhere()
    path.write_text(make_page(origin(), summary(found), [found], []))
    browser.open(address(path))
    figures = "[...document.querySelectorAll('.figures div')].map(e => e.textContent)"
    assert browser.evaluate(figures)[2:] == ["instructions3", "recovered rows2", "more that no path reaches1"]
    last = "[...document.querySelectorAll('.ins')].pop().querySelector('.row').textContent"
    assert browser.evaluate(last) == "no path reaches this"


def test_the_page_says_what_it_is_of_and_who_made_it(browser: Page, written: Path) -> None:
    browser.open(address(written))
    said = browser.evaluate("document.querySelector('.origin').textContent")
    for part in (f"python {HOSTILE}", "jitunwind 0.1.0", "a-host", "2026-12-01 05:00:00+00:00"):
        assert part in said
    listed = "[...document.querySelectorAll('[data-region]')].map(e => e.querySelector('.runs')?.title ?? '')"
    assert browser.evaluate(listed) == ["", "in thread 77", ""]
    assert browser.evaluate("document.querySelectorAll('td.first')[2].textContent") == "plain.py:10"


def test_search_counts_what_other_regions_have(browser: Page, written: Path) -> None:
    browser.open(address(written, "search=_micro_op_8"))
    assert browser.evaluate("document.getElementById('found').textContent") == (
        "4 instructions found in 1 region, 0 of them here"
    )
    hits = "[...document.querySelectorAll('[data-region]')].map(e => e.querySelector('.hits').textContent)"
    assert browser.evaluate(hits) == ["0", "4", "0"]


def test_what_a_search_leaves_has_its_python_line_above_it(browser: Page, written: Path) -> None:
    browser.open(address(written, "region=1&search=_micro_op_3"))
    assert seen(browser, ".block:not(.again) .python") == 1


def test_a_python_line_stands_once_above_all_that_was_made_of_it(browser: Page, written: Path) -> None:
    browser.open(address(written, "region=1"))
    assert seen(browser, ".block") == 9
    assert (seen(browser, ".where"), seen(browser, ".python")) == (5, 5)  # two micro-ops of each line


def test_only_differing_rows(browser: Page, written: Path) -> None:
    browser.open(address(written, "search=push"))
    browser.click("#differing")
    assert seen(browser, '.ins[data-hit="text"]') == 3
    browser.open(address(written, "differing=1&search=ud2"))
    assert seen(browser, ".block") == 0


def test_an_instruction_chosen_says_all_there_is(browser: Page, written: Path) -> None:
    browser.open(address(written))
    browser.click('.ins[data-offset="8"] .text')
    text = browser.evaluate("document.querySelector('.more').textContent")
    assert "0x7f0000000008 (+0x8)" in text
    assert "recovered  CFA=rsp+8 ra=c-8 rbx=u rbp=s" in text
    assert "jumps to +0x0" in text
    browser.click(".more button")
    assert browser.evaluate("document.querySelector('.chosen').dataset.offset") == "0"


def test_keys_are_enough(browser: Page, written: Path) -> None:
    browser.open(address(written))
    stops = []
    for _ in range(20):
        browser.press("Tab")
        stops.append(browser.evaluate("document.activeElement.id || document.activeElement.className"))
        outline = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", f"nothing shows that {stops[-1]} has the focus"
        if stops[-1] == "listing":
            break
    assert stops[:3] == ["search", "differing", "theme"]
    assert stops[-1] == "listing"
    browser.press("ArrowDown")
    browser.press("ArrowDown")
    browser.press("Enter")
    assert browser.evaluate("document.querySelector('.chosen .more').textContent").startswith(
        "0x7f0000000004"
    )


def test_another_region_is_shown_by_its_link(browser: Page, written: Path) -> None:
    browser.open(address(written))
    browser.click('[data-region="1"] a')
    browser.wait_until("shown.index === 1")
    assert seen(browser, ".block") == 9
    assert browser.evaluate("document.querySelector('tr.here').dataset.region") == "1"


def test_hundreds_of_regions_are_shown_one_at_a_time(browser: Page, tmp_path: Path) -> None:
    many = [region(number, "/tmp/a.py", 75) for number in range(200)]
    path = tmp_path / "many.html"
    path.write_text(make_page(origin(), summary(*many), many, []))
    assert path.stat().st_size < 3_000_000, "for 60,000 instructions"
    browser.open(address(path))
    assert seen(browser, ".ins") == 300
    took = "(() => {{ const begin = performance.now(); {}; mark(); return performance.now() - begin }})()"
    assert browser.evaluate(took.format("show(150, false)")) < 5000
    assert browser.evaluate(took.format("search.value = 'push'")) < 10_000
    assert browser.evaluate("found.textContent").startswith("15,000 instructions found in 200 regions")


def test_a_long_region_is_shown_in_part_until_asked(browser: Page, tmp_path: Path) -> None:
    long = region(0, "/tmp/a.py", 1000)
    path = tmp_path / "long.html"
    path.write_text(make_page(origin(), summary(long), [long], []))
    browser.open(address(path))
    assert 3000 <= seen(browser, ".ins") < 3010
    browser.evaluate("document.querySelector('button.rest').click()")
    assert seen(browser, ".ins") == 4000
