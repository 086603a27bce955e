"""Explanations as one HTML page that needs nothing else: no network, no other file.

In come the summary and the regions; out comes the page's text. The summary and the list of regions are HTML
made here; the regions themselves are JSON in the page, which its script (`page.js`) shows one at a time, so that
hundreds of them open as fast as one. Names and lines are of the process's own making: what is HTML is escaped,
JSON has no `<`, the script sets text and never markup, and the page's own policy forbids it to load anything.
"""

import html
import json
import os
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any

from jitunwind.explain.differences import Difference
from jitunwind.explain.model import Answer, Block, Explained, Instruction, Source, Summary
from jitunwind.explain.origin import Origin
from jitunwind.explain.words import (
    ROWS_SHOW,
    about_running,
    differing_everywhere,
    everywhere_pairs,
    name_and_place,
)
from jitunwind.notation import Parts, defined, legend, line, registers


def page(origin: Origin, summary: Summary, regions: Sequence[Explained], warnings: Sequence[str]) -> str:
    """The whole page."""
    assets = files("jitunwind.explain")
    packed = _Packed(summary)
    bodies = [packed.region(each) for each in regions]
    return Template(assets.joinpath("page.html").read_text("utf-8")).substitute(
        title=html.escape(f"{origin.subject}, {origin.python}"),
        origin="".join(_origin(origin)),
        style=assets.joinpath("page.css").read_text("utf-8"),
        script=assets.joinpath("page.js").read_text("utf-8"),
        figures="".join(_figures(summary)),
        tables="".join(_tables(summary)),
        warnings="".join(f"<li>{html.escape(each)}</li>" for each in warnings),
        legend="".join(
            f"<dt><code>{html.escape(a)}</code></dt><dd>{html.escape(b)}</dd>"
            for a, b in legend(summary.arch)
        ),
        differing="other differences"
        if any(each.everywhere for each in summary.tables.values())
        else "differing",
        running=html.escape(about_running([each.listed for each in regions])),
        regions="".join(_region_row(index, each, summary) for index, each in enumerate(regions)),
        shared=_json({**packed.shared(), "tables": list(summary.tables)}),
        data="\n".join(
            f'<script type="application/json" id="region-{index}">{_json(body)}</script>'
            for index, body in enumerate(bodies)
        ),
    )


def _json(value: Any) -> str:
    """JSON that cannot end the element it stands in (HTML, 4.12.1.3)."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _figures(summary: Summary) -> list[str]:
    figures = (
        (summary.regions, "region" if summary.regions == 1 else "regions"),
        (summary.micro_ops, "micro-ops"),
        (summary.instructions, "instructions"),
        (summary.rows, "recovered rows"),
        *([(summary.unknown, "without a row")] if summary.unknown else []),
    )
    found = [f"<div><dt>{what}</dt><dd>{number:,}</dd></div>" for number, what in figures]
    if summary.unreached:
        found.append(
            f'<div class="aside"><dt>more that no path reaches</dt><dd>{summary.unreached:,}</dd></div>'
        )
    return found


def _origin(origin: Origin) -> list[str]:
    """What the page is of, and where it comes from."""
    said = [("command line", origin.command)] if origin.command else []
    said += [("made by", f"jitunwind {origin.jitunwind}, on {origin.host}, {origin.time}")]
    return [f"<div><dt>{what}</dt><dd>{html.escape(text)}</dd></div>" for what, text in said]


def _tables(summary: Summary) -> list[str]:
    """A line for each table: at how many instructions it differs, in all and by register."""
    found = []
    names = registers(summary.arch)
    for name, each in summary.tables.items():
        cells = [f'<th scope="row">{html.escape(name)}</th>']
        if each.compared:
            cells += [_share(each.differing, each.compared)]
            cells += [_share(each.registers[register], each.compared) for register in names]
            cells += [f"<td>{each.unknown:,}</td>"]
        else:
            cells.append(f'<td class="none" colspan="{len(names) + 2}">has nothing for this code</td>')
        found.append(f"<tr>{''.join(cells)}</tr>")
    if not found:
        return []
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("table", "differs", *names, "no row"))
    return [
        '<div class="scroll" tabindex="0" role="region" aria-label="Where tables differ"><table class="tables">',
        "<caption>Instructions at which a table says something else than the recovered one</caption>",
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(found)}</tbody></table></div>",
        *(
            f'<p class="everywhere"><strong>{html.escape(name)}: {differing_everywhere(each)}.</strong> '
            f"{', '.join(f'<span>{html.escape(pair)}</span>' for pair in everywhere_pairs(each))}. {ROWS_SHOW}</p>"
            for name, each in summary.tables.items()
            if each.everywhere
        ),
    ]


def _share(part: int, whole: int) -> str:
    if not part:
        return "<td>0</td>"
    return f'<td class="differs">≠ {part:,}<small>{_per_cent(part, whole)}</small></td>'


def _per_cent(part: int, whole: int) -> str:
    return "100 %" if part == whole else f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"


def _region_row(index: int, region: Explained, summary: Summary) -> str:
    """One line of the list; the script makes it a choice. Of what differs only that is counted which is not said above
    for all of them."""
    listed = region.listed
    instructions = list(region.instructions)
    beyond = {id(each.answer): bool(summary.beyond(each.answer)) for each in instructions}
    differing = sum(beyond[id(each.answer)] for each in instructions)
    name, begin = name_and_place(listed)
    threads = ", ".join(map(str, listed.threads or ()))
    runs = f'<td class="runs" title="in thread {threads}">runs</td>' if threads else "<td></td>"
    mark = f'<td class="differs">≠ {differing:,}</td>' if differing else "<td>0</td>"
    count = "?" if listed.micro_ops is None else f"{listed.micro_ops:,}"
    return (
        f'<tr data-region="{index}"><td>{listed.number}</td>'
        f'<td class="name"><a href="#region={index}">{html.escape(name)}</a></td>'
        f'<td class="first" title="{html.escape(begin)}">{html.escape(os.path.basename(begin))}</td>{runs}'
        f"<td><code>{listed.code.start:#x}</code></td><td>{listed.code.size:,}</td><td>{count}</td>"
        f'<td>{len(instructions):,}</td>{mark}<td class="hits"></td></tr>'
    )


class _Packed:
    """Regions as small as JSON can be: what recurs is in one table, and a number stands for it."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary
        self._texts: dict[str, int] = {}
        self._sources: dict[Source, int] = {}
        self._answers: dict[int, int] = {}
        self._answer_list: list[Answer] = []

    def shared(self) -> dict[str, Any]:
        """What all regions refer to."""
        return {
            "texts": list(self._texts),
            "sources": [_source(each) for each in self._sources],
            "answers": [_answer(each, self._summary.beyond(each)) for each in self._answer_list],
        }

    def region(self, region: Explained) -> dict[str, Any]:
        listed = region.listed
        return {
            "number": listed.number,
            "name": listed.name,
            "begin": list(listed.begin or ()),
            "start": f"{listed.code.start:x}",
            "size": listed.code.size,
            "threads": list(listed.threads or ()),
            "why": region.why,
            "blocks": [self._block(each) for each in region.blocks],
            "jumps": [[each.source, each.target, each.lane] for each in region.jumps],
        }

    def _block(self, block: Block) -> list[Any]:
        instructions = [part for each in block.instructions for part in self._instruction(each)]
        source = None
        if block.source is not None:
            source = self._sources.setdefault(block.source, len(self._sources))
        return [block.start, block.title, block.detail, source, block.skipped, instructions]

    def _instruction(self, each: Instruction) -> tuple[int, int, int]:
        text = self._texts.setdefault(each.text, len(self._texts))
        answer = self._answers.get(id(each.answer))
        if answer is None:
            answer = self._answers[id(each.answer)] = len(self._answer_list)
            self._answer_list.append(each.answer)
        return each.offset, text, answer


def _source(source: Source) -> list[Any]:
    return [source.function, source.file, source.line, source.text, source.bytecode]


def _answer(answer: Answer, beyond: dict[str, Difference]) -> dict[str, Any]:
    """`row`: parts to print; `differs`: [table, its whole row, [[register, what it says, recovered]]], without what
    differs everywhere; `full`: with that."""
    return {
        "row": [[name, rule] for name, rule in defined(answer.row).items()],
        "whole": line(answer.row),
        "reason": answer.reason if answer.reached else "",
        "differs": _differs(beyond),
        "full": _differs(answer.differences),
        "silent": [[name, reason] for name, reason in answer.unknown.items()],
    }


def _differs(differences: dict[str, Difference]) -> list[list[Any]]:
    return [
        [name, line(found.said), _registers(found.registers, found.said)]
        for name, found in differences.items()
    ]


def _registers(recovered: Parts, said: Parts) -> list[list[str]]:
    return [[name, said[name], rule] for name, rule in recovered.items()]
