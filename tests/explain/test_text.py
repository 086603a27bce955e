"""The terminal form: nothing is wider than the terminal, and paths keep their last part."""

import click
import pytest

from jitunwind.explain.text import heading, region_lines, regions_table, summary_lines
from tests.explain.made import origin, region, summary, wrong_everywhere

LONG = "/a/very/long/path/of/folders/that/nobody/would/want/to/type/by/hand/plain.py"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    regions = [region(0), region(1, LONG, blocks=9), wrong_everywhere()]
    figures = summary(*regions)
    lines = [*heading(origin(), width), *regions_table([each.listed for each in regions], width)]
    lines += summary_lines(figures, width)
    for each in regions:
        lines += region_lines(each, figures, width)
    plain = [click.unstyle(line) for line in lines]
    assert [line for line in plain if len(line) > width] == []
    assert any("plain.py:10" in line for line in plain)


def test_a_path_that_has_no_room_loses_its_first_parts() -> None:
    found = region(0, LONG)
    plain = [click.unstyle(line) for line in region_lines(found, summary(found), 60)]
    assert "…/folders/that/nobody/would/want/to/type/by/hand/plain.py:10" in plain


def test_what_differs_everywhere_is_said_above_and_marked_nowhere() -> None:
    found = wrong_everywhere()
    figures = summary(found)
    above = "\n".join(click.unstyle(line) for line in summary_lines(figures, 200))
    assert "published: rbx and r12 differ at every instruction; also rbp 1" in above
    assert "rbx=s for c-56, r12=s for c-48" in above
    assert "1 more that no path reaches" in above
    assert "without a row" not in above
    below = [click.unstyle(line) for line in region_lines(found, figures, 200)]
    assert [line.partition("≠")[2] for line in below if "≠" in line] == [
        " published: rbp",
        " published says CFA=rbp+16 ra=c-8 rbx=s rbp=c-16 r12=s: rbp=c-16 for c-24",
    ]
    assert sum("no path reaches this" in line for line in below) == 1


def test_a_row_stands_above_the_instruction_where_there_is_no_room_beside_it() -> None:
    found = region(0, blocks=1)
    figures = summary(found)
    narrow = [click.unstyle(line).strip() for line in region_lines(found, figures, 70)]
    wide = [click.unstyle(line).strip() for line in region_lines(found, figures, 200)]
    at = next(number for number, line in enumerate(narrow) if "push" in line)
    assert narrow[at - 1].endswith("CFA=rsp+32 ra=c-8 rbp=c-16  ≠ published: rbx")
    assert any("push" in line and "CFA=rsp+32" in line for line in wide)
