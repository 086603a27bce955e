"""The flame graph in a real browser: nothing is loaded, nothing breaks, all is drawn, found and reached."""

import json
import time
from itertools import product
from pathlib import Path

import pytest

from jitunwind.profile import page as pages
from jitunwind.profile.labels import WAITING, by_function
from jitunwind.profile.recording import Frame, Kind, Recording
from jitunwind.wording import printable
from tests.explain.test_page import CONTRAST, LEAST_CONTRAST
from tests.profile.made import COLD, HOSTILE, HOT, KERNEL, MAIN, MODULE, WRITE, large, origin, recording
from tools.browser import Page, address

SHOWN = printable(HOSTILE)
WIDE, PHONE = (1280, 900), (390, 800)
MILLION = 1_000_000
OPENS_WITHIN = 2.0
"""Seconds; the quickest of several tries counts, as other tests run meanwhile."""
TRIES = 3


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "profile.html"
    path.write_text(pages.write(recording(), False))
    return path


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "difference.html"
    after = Recording(origin())
    thread = after.thread(1, "main")
    for frames, weight in (((MAIN, MODULE, HOT), 30), ((MAIN, MODULE, COLD, KERNEL), 2)):
        after.add(0.0, thread, after.stack(tuple(map(after.frame, frames))), weight)
    before, after = (
        each.translated([(by_function(frame),) for frame in each.frames]) for each in (recording(), after)
    )
    path.write_text(pages.difference(before, after))
    return path


@pytest.fixture(autouse=True)
def wide(browser: Page) -> None:
    browser.resize(*WIDE)
    browser.prefer("light")


def bars(browser: Page, selector: str = ".call") -> list[str]:
    """What is written on the bars, by row and then from the left."""
    script = f"""[...document.querySelectorAll({json.dumps(selector)})].map(e => [e.offsetTop, e.offsetLeft, e])
      .sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, , e]) => title(Number(e.dataset.at)))"""
    found: list[str] = browser.evaluate(script)
    return found


def widths(browser: Page) -> dict[str, float]:
    """Of each bar, the share of the graph's width."""
    script = """Object.fromEntries([...document.querySelectorAll(".call")].map(
      e => [title(Number(e.dataset.at)), e.getBoundingClientRect().width / graph.clientWidth]))"""
    found: dict[str, float] = browser.evaluate(script)
    return found


def chosen(browser: Page) -> str:
    found: str = browser.evaluate("document.querySelector('.here') ? title(here) : ''")
    return found


@pytest.mark.parametrize(("size", "scheme"), list(product((WIDE, PHONE), ("light", "dark"))))
def test_it_loads_nothing_else_and_nothing_breaks(
    size: tuple[int, int], scheme: str, browser: Page, written: Path, compared: Path
) -> None:
    browser.resize(*size)
    browser.prefer(scheme)
    for path in (written, compared):
        browser.open(address(path))
        assert browser.complaints == []
        assert [url for url in browser.requests if url != address(path)] == []
        assert bars(browser)[:3] == ["all", "<module>", "main"]


def test_its_policy_forbids_to_load_anything(browser: Page, written: Path) -> None:
    browser.open(address(written))
    assert (
        browser.evaluate('fetch("https://example.org/").then(() => "loaded", () => "refused")') == "refused"
    )


def test_bars_are_as_wide_as_what_they_show(browser: Page, written: Path) -> None:
    browser.open(address(written))
    found = widths(browser)
    assert found["all"] == 1
    assert found["main"] == pytest.approx(2 / 32, abs=0.01)
    assert found["<module>"] == pytest.approx(30 / 32, abs=0.01)
    assert found["hot"] == pytest.approx(20 / 32, abs=0.01)
    assert found[SHOWN] == pytest.approx(10 / 32, abs=0.01)


def test_the_table_says_how_functions_ran(browser: Page, written: Path) -> None:
    browser.open(address(written))
    rows = browser.evaluate(
        "[...document.querySelectorAll('.functions tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    )
    assert rows[0] == ["62.5 %", "62.5 %", "50.0 %", "", "12.5 %", "hot", "hot.py"]


def test_names_of_the_process_are_text(browser: Page, written: Path) -> None:
    browser.open(address(written))
    assert browser.evaluate("window.broken") is None
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    for selector in ("h1", ".origin", ".functions", "#thread"):
        assert SHOWN in browser.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")
    assert SHOWN in bars(browser)
    assert "\u202e" not in browser.evaluate("document.body.textContent")


def test_colours_tell_kinds_and_the_legend_their_shares(browser: Page, written: Path) -> None:
    browser.open(address(written))
    script = (
        "[...document.querySelectorAll('.call')].map(e => [title(Number(e.dataset.at)), e.style.background])"
    )
    colours = dict(browser.evaluate(script))
    assert "--native" in colours["main"]
    assert "--python" in colours["<module>"]
    assert "--jit" in colours["hot"]
    assert "--kernel" in colours["sys_write"]
    said = browser.evaluate("document.getElementById('legend').textContent")
    for part in (
        "Python, in JIT code 50.0 %",
        "Python, in the interpreter 25.0 %",
        "C 18.8 %",
        "kernel 6.3 %",
    ):
        assert part in said


def test_the_page_says_what_it_is_of(browser: Page, written: Path) -> None:
    browser.open(address(written))
    said = browser.evaluate("document.querySelector('.origin').textContent")
    for part in (
        f"python {SHOWN}",
        "process 4711, CPython 3.15.2, JIT on",
        "31 samples in 0.4 s",
        "jitunwind",
    ):
        assert part in said


def test_a_click_zooms_and_escape_goes_back(browser: Page, written: Path) -> None:
    browser.open(address(written))
    browser.evaluate("[...document.querySelectorAll('.call')].find(e => e.textContent === 'hot').click()")
    assert bars(browser) == ["all", "<module>", "hot", "libc.so.6+0x1234"]
    assert set(list(widths(browser).values())[:3]) == {1}
    assert "62.5 %" in browser.evaluate("about.textContent")
    browser.press("Escape")
    assert SHOWN in bars(browser)
    browser.evaluate("document.getElementById('reset').click()")
    assert len(bars(browser)) == 8
    browser.press("w")
    assert bars(browser)[:3] == ["all", "main", "<module>"]
    assert "whole=1" in browser.evaluate("location.hash")


def test_search_marks_what_it_finds_and_counts_it_once(browser: Page, written: Path) -> None:
    browser.open(address(written))
    browser.press("/")
    browser.type("hot.py")
    browser.wait_until("found.textContent !== ''")
    assert bars(browser, ".call.hit") == ["<module>", "hot"]
    assert browser.evaluate("found.textContent") == "“hot.py” is in 2 places, 93.8 % of the time"
    assert "search=hot.py" in browser.evaluate("location.hash")
    browser.press("Escape")
    assert bars(browser, ".call.hit") == []
    browser.open(address(written, "search=nothing+of+the+kind"))
    assert browser.evaluate("found.textContent") == "Nothing found for “nothing of the kind”."


def test_reversed_it_begins_with_what_ran(browser: Page, written: Path) -> None:
    browser.open(address(written, "reversed=1"))
    found = widths(browser)
    first = set(bars(browser)[1:6])
    assert first == {"hot", SHOWN, "libc.so.6+0x1234", "sys_write", "main"}
    assert found["sys_write"] == pytest.approx(2 / 32, abs=0.01)
    browser.evaluate("document.getElementById('reversed').click()")
    assert bars(browser)[1] == "<module>"


def test_python_only_gives_the_time_of_c_to_its_callers(browser: Page, written: Path) -> None:
    browser.open(address(written))
    browser.evaluate("graph.focus()")
    browser.press("p")
    assert bars(browser) == ["all", "<module>", "hot", SHOWN]
    assert widths(browser)["hot"] == pytest.approx(20 / 32, abs=0.01)
    assert (
        browser.evaluate("tree.own[0][tree.frame.indexOf(data.frames.findIndex(f => f[0] === 'hot'))]") == 20
    )
    legend = browser.evaluate("document.getElementById('legend').textContent")
    assert "Python, in JIT code 62.5 %" in legend
    assert "C " not in legend


def test_keys_are_enough(browser: Page, written: Path) -> None:
    browser.open(address(written))
    stops = []
    for _ in range(10):
        browser.press("Tab")
        stops.append(browser.evaluate("document.activeElement.id || document.activeElement.className"))
        assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", stops
        if stops[-1] == "graph":
            break
    assert stops == ["search", "thread", "reversed", "python", "whole", "reset", "theme", "graph"]
    for key, where in (
        ("ArrowDown", "<module>"),
        ("ArrowDown", "hot"),
        ("ArrowRight", SHOWN),
        ("ArrowRight", SHOWN),
        ("ArrowLeft", "hot"),
    ):
        browser.press(key)
        assert chosen(browser) == where
    browser.press("Enter")
    assert widths(browser)["hot"] == 1
    browser.press("ArrowUp")
    assert chosen(browser) == "<module>"


def test_a_difference_shows_what_has_grown_and_what_has_gone(browser: Page, compared: Path) -> None:
    browser.open(address(compared))
    said = """[...document.querySelectorAll(".call")].map(
      e => [title(Number(e.dataset.at)), e.getAttribute("aria-label"), e.style.background])"""
    found = {name: (label, colour) for name, label, colour in browser.evaluate(said)}
    hot = next(found[name] for name in found if name.startswith("hot"))
    assert hot[0].endswith("% before, 93.8 % after")
    assert "--more" in hot[1]
    gone = next(found[name] for name in found if name.startswith(SHOWN))
    assert "31.3 % before, 6.3 % after" in gone[0]
    assert "--less" in gone[1]


def loaded(browser: Page, folder: Path, text: str, fragment: str = "") -> None:
    path = folder / "page.html"
    path.write_text(text)
    browser.open(address(path, fragment))
    assert browser.complaints == []


def of(*stacks: tuple[tuple[Frame, ...], int]) -> Recording:
    """A recording of one thread, with a weight for each stack."""
    made = Recording(origin())
    thread = made.thread(1, "main")
    for frames, weight in stacks:
        made.add(0.0, thread, made.stack(tuple(map(made.frame, frames))), weight)
    return made


def test_a_difference_takes_jit_code_and_interpreter_for_one_function(browser: Page, tmp_path: Path) -> None:
    cold = HOT._replace(kind=Kind.PYTHON)
    before = of(((MAIN, MODULE, cold), 80), ((MAIN, MODULE, cold, WRITE), 20))
    after = of(((MAIN, MODULE, HOT), 40), ((MAIN, MODULE, HOT, WRITE), 40), ((MAIN, MODULE), 20))
    loaded(browser, tmp_path, pages.difference(before, after))
    assert bars(browser) == ["all", "<module>:9", "hot:3", "libc.so.6+0x1234"]
    browser.evaluate("[...document.querySelectorAll('.call')].find(e => e.textContent === 'hot:3').click()")
    said = browser.evaluate("about.textContent")
    assert "hot:3 · Python · hot.py" in said.replace("/tmp/", "")
    assert "100.0 % before, 80.0 % after · −20.0 points · in JIT code 0.0 % before, 100.0 % after" in said
    assert "before: python" in browser.evaluate("document.querySelector('.summary').textContent")
    assert "100 samples · JIT code 0.0 %" in browser.evaluate(
        "document.querySelector('.summary').textContent"
    )
    row = "[...document.querySelector('.functions tbody tr').cells].map(cell => cell.textContent)"
    assert browser.evaluate(row) == ["100.0 %", "80.0 %", "0.0 %", "100.0 %", "hot", "hot.py"]
    browser.press("r")
    assert sorted(bars(browser)[:4]) == sorted(["all", "hot:3", "libc.so.6+0x1234", "<module>:9"])


def test_threads_can_be_chosen_and_told_apart(browser: Page, written: Path) -> None:
    browser.open(address(written, "thread=split"))
    first, second = f"worker {SHOWN} (4712)", "python (4711)"
    found = widths(browser)
    assert found[first] == pytest.approx(17 / 32, abs=0.01)
    assert found[second] == pytest.approx(15 / 32, abs=0.01)
    browser.press("r")
    assert bars(browser)[:3] == ["all", first, second]
    browser.press("r")
    offered = browser.evaluate("[...threads.options].map(each => each.textContent)")
    assert offered == ["all 2 threads", "split by thread", f"{first}, 53.1 %", f"{second}, 46.9 %"]
    browser.evaluate("threads.value = '1'; threads.dispatchEvent(new Event('change'))")
    assert "thread=1" in browser.evaluate("location.hash")
    assert browser.evaluate("tree.total[0][0]") == 15
    assert "main" not in bars(browser)  # only the other thread has it without Python


def test_recursion_is_told_once(browser: Page, tmp_path: Path) -> None:
    even, odd = (Frame(Kind.PYTHON, name, "/tmp/even.py") for name in ("even", "odd"))
    made = of(((MAIN, MODULE, *[HOT] * 3000), 2), ((MAIN, MODULE, *[even, odd] * 2000, WRITE), 3))
    loaded(browser, tmp_path, pages.write(made, False))
    assert bars(browser) == ["all", "<module>", "even", "hot", "odd", "libc.so.6+0x1234"]
    assert "hot ↻" in browser.evaluate("[...document.querySelectorAll('.call')].map(e => e.textContent)")
    assert widths(browser)["hot"] == pytest.approx(2 / 5, abs=0.01)
    browser.press("w")
    assert browser.evaluate("Math.max(...tree.depth)") == 4003


def test_waiting_is_marked(browser: Page, tmp_path: Path) -> None:
    made = of(((MAIN, MODULE, HOT), 1), ((MAIN, MODULE, COLD, WRITE, Frame(Kind.WAITING, WAITING)), 3))
    loaded(browser, tmp_path, pages.write(made, False), "python=1")
    assert widths(browser)["[waiting]"] == pytest.approx(3 / 4, abs=0.01)
    assert "waiting 75.0 %" in browser.evaluate("document.getElementById('legend').textContent")
    rows = browser.evaluate(
        "[...document.querySelectorAll('.functions tr')].map(row => row.cells[5].textContent)"
    )
    assert rows[:2] == ["+ waiting", "75.0 %"]
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        assert min(browser.evaluate(CONTRAST).values()) >= LEAST_CONTRAST


def test_threads_beyond_a_hundred_are_one(browser: Page, tmp_path: Path) -> None:
    made = Recording(origin())
    stack = made.stack((made.frame(MODULE),))
    for tid in range(1, 131):
        made.add(0.0, made.thread(tid, "worker"), stack, 200 - tid)
    loaded(browser, tmp_path, pages.write(made, False), "thread=split")
    shown = browser.evaluate("data.threads")
    assert shown[0] == "worker (1)"
    assert shown[100:] == ["30 other threads"]
    assert widths(browser)["30 other threads"] == pytest.approx(sum(range(70, 100)) / made.weight, abs=0.01)


def test_an_empty_recording_and_doubts_are_explained(browser: Page, tmp_path: Path) -> None:
    made = Recording(origin())
    made.counts.moments, made.counts.missed = 40, 24
    browser.resize(*PHONE)
    loaded(browser, tmp_path, pages.write(made, False))
    said = browser.evaluate(
        "[...document.querySelectorAll('.warning')].map(each => each.textContent).join(' ')"
    )
    assert "This recording has no sample" in said
    assert "40 of 100 samples a second were taken" in said
    assert browser.evaluate("data.period") == pytest.approx(0.025)
    assert bars(browser) == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


def test_the_graph_begins_high_on_a_phone(browser: Page, written: Path) -> None:
    browser.resize(*PHONE)
    browser.open(address(written))
    assert browser.evaluate("graph.getBoundingClientRect().top") < PHONE[1] * 0.42


@pytest.mark.parametrize("width", [320, 390, 640, 768, 1080, 1440])
def test_it_is_never_wider_than_the_window(width: int, browser: Page, written: Path, compared: Path) -> None:
    browser.resize(width, 800)
    for path in (written, compared):
        browser.open(address(path))
        browser.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        outside = (
            "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
            " && !e.closest('.scroll, .hidden')).map(e => e.outerHTML.slice(0, 100))"
        )
        assert browser.evaluate(outside) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast_enough(scheme: str, browser: Page, written: Path, compared: Path) -> None:
    browser.prefer(scheme)
    for path in (written, compared):
        browser.open(address(path, "search=hot"))
        browser.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        ratios = browser.evaluate(CONTRAST)
        assert len(ratios) > 10
        assert {key: ratio for key, ratio in ratios.items() if ratio < LEAST_CONTRAST} == {}


def test_the_button_changes_between_light_and_dark(browser: Page, written: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.open(address(written))
    before = browser.evaluate(ground)
    browser.click("#theme")
    assert browser.evaluate(ground) != before
    browser.click("#theme")
    assert browser.evaluate(ground) == before


def test_a_million_samples_open_within_two_seconds(browser: Page, tmp_path: Path) -> None:
    path = tmp_path / "million.html"
    path.write_text(pages.write(large(MILLION), False))
    took = []
    for _ in range(TRIES):
        began = time.monotonic()
        browser.open(address(path))
        browser.wait_until("document.querySelectorAll('.call').length > 10")
        took.append(time.monotonic() - began)
    assert min(took) < OPENS_WITHIN, took
    assert browser.complaints == []
    assert browser.evaluate("tree.total[0][0]") == MILLION
    spent = browser.evaluate(
        "(() => { const began = performance.now(); search.value = 'function_7'; mark();"
        " return performance.now() - began; })()"
    )
    assert spent < 1000 * OPENS_WITHIN
