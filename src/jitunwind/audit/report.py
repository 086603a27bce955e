"""An audit's results as data, as Markdown and as JUnit XML."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from jitunwind.audit.findings import MOST_EXAMPLES, Findings, Tally
from jitunwind.audit.witness import WITNESSES, Place, Witness
from jitunwind.wording import counted, listed, runs

MOST_REASONS = 20


def as_data(
    subject: str,
    seconds: float,
    witnesses: Sequence[Witness],
    counts: Mapping[str, int],
    reachable: Mapping[Place, Collection[int]],
    not_judged: Sequence[str] = (),
    readers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What `audit --json` prints: see docs/using.md. `witnesses` in the order in which they were asked; `reachable`:
    the offsets of all instructions that can be reached in each region; `not_judged`: callee-saved registers that no
    witness looks at; `readers`: the programs that executed the tables, and their versions."""
    names = dict.fromkeys(name for witness in witnesses for name in witness.findings)
    findings = {
        name: together([witness.findings[name] for witness in witnesses if name in witness.findings])
        for name in names
    }
    regions: dict[tuple[int, str], dict[str, Any]] = {}
    for name, found in findings.items():
        for (start, region), tally in found.regions.items():
            entry = regions.setdefault(
                (start, region), {"start": f"{start:#x}", "name": region, "witnesses": [], "tables": {}}
            )
            entry["tables"][name] = {"instructions": tally.instructions, **tally.as_json()}
    covered = Counter[str]()
    for place, offsets in reachable.items():
        by_offset = _by_offset(place, witnesses)
        covered["reachable"] += len(offsets)
        covered.update(by_offset.values())
        judged = next((w.judged[place] for w in witnesses if place in w.judged), None)
        key = (place[0], judged.name if judged is not None else "")
        if key in regions:
            regions[key] |= {"reachable": len(offsets), "witnesses": _spans(offsets, by_offset)}
    asked = {witness.name: witness for witness in witnesses}
    return {
        "subject": subject,
        "seconds": round(seconds, 3),
        "witnesses": {name: asked[name].instructions if name in asked else 0 for name in WITNESSES},
        "coverage": {name: covered[name] for name in ("reachable", *WITNESSES)},
        "counts": dict(counts),
        "not_judged": list(not_judged),
        "readers": dict(readers or {}),
        "tables": {
            name: {
                **_table(found),
                "witnesses": {
                    each: asked[each].findings[name].total.instructions
                    if each in asked and name in asked[each].findings
                    else 0
                    for each in WITNESSES
                },
            }
            for name, found in findings.items()
        },
        "regions": [regions[key] for key in sorted(regions)],
        "examples": [
            {"table": name, **example} for name, found in findings.items() for example in found.examples
        ],
    }


def together(parts: Sequence[Findings]) -> Findings:
    """What several witnesses have found of one table."""
    whole = Findings(parts[0].judged)
    for part in parts:
        whole.total.add(part.total)
        for region, tally in part.regions.items():
            whole.regions.setdefault(region, Tally()).add(tally)
        whole.wrong += part.wrong
        whole.unknown += part.unknown
        whole.reasons += part.reasons
        whole.examples += part.examples[: MOST_EXAMPLES - len(whole.examples)]
    return whole


def _by_offset(place: Place, witnesses: Sequence[Witness]) -> dict[int, str]:
    """Who has judged each instruction of a region."""
    found: dict[int, str] = {}
    for witness in witnesses:
        if place in witness.judged:
            for offset in witness.judged[place].offsets:
                found.setdefault(offset, witness.name)
    return found


def _spans(offsets: Collection[int], by_offset: Mapping[int, str]) -> list[list[Any]]:
    """[first offset, last offset, witness] of instructions in a row that one witness has judged."""
    spans: list[list[Any]] = []
    last = ""
    for offset in sorted({*offsets, *by_offset}):
        witness = by_offset.get(offset, "")
        if witness and witness == last:
            spans[-1][1] = offset
        elif witness:
            spans.append([offset, offset, witness])
        last = witness
    return spans


def coverage_of(data: dict[str, Any]) -> str:
    """How many of the reachable instructions have been judged, by whom, in words."""
    coverage = data["coverage"]
    whole = coverage["reachable"]
    parts = [
        f"{coverage[name]:,} {name} ({_share(coverage[name], whole)})"
        for name in WITNESSES
        if data["witnesses"][name]
    ]
    return f"of {whole:,} reachable instructions: {', '.join(parts)}"


def meaning_of(table: dict[str, Any]) -> str:
    """What the figures of one table mean, in a sentence: what of the caller it gets right, and what not."""
    instructions, by_register = table["instructions"], table["registers"]
    if not instructions:
        return "nothing was judged"
    if table["unknown"] == instructions:
        return f"says nothing of the caller at any of {counted(instructions, 'instruction')}"
    right = [name for name, tally in by_register.items() if tally["exact"] == instructions]
    if len(right) == len(by_register):
        where = "at the one instruction" if instructions == 1 else f"at all {instructions:,} instructions"
        return f"CFA, return address and callee-saved registers are right {where}"
    parts = [f"{_are(right)} right at every instruction"] if right else []
    for verdict, words in (("wrong", "wrong at"), ("unknown", "not known at")):
        counts = {name: tally[verdict] for name, tally in by_register.items() if tally[verdict]}
        if counts:
            parts.append(f"{_are(list(counts))} {words} {_between(counts.values())}")
    return f"{'; '.join(parts)} of {instructions:,}"


def _are(names: Sequence[str]) -> str:
    """`CFA is`, `rbx and r12 to r15 are`."""
    said = listed(["return address" if word == "RA" else word for word in runs(names)])
    return f"{said} {'is' if len(names) == 1 else 'are'}"


def _between(counts: Collection[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _table(found: Findings) -> dict[str, Any]:
    return {
        "instructions": found.total.instructions,
        **found.total.as_json(),
        "registers": {name: tally.as_json() for name, tally in found.registers.items()},
        "reasons": dict(found.reasons.most_common(MOST_REASONS)),
    }


def is_clean(data: dict[str, Any], most_unknown: int) -> bool:
    """Whether no table is wrong anywhere, nor unknown at more than `most_unknown` instructions."""
    return all(not table["wrong"] and table["unknown"] <= most_unknown for table in data["tables"].values())


def as_markdown(data: dict[str, Any]) -> str:
    """A table of the tables: one line each, with the share of exact instructions per register."""
    registers = list(next(iter(data["tables"].values()))["registers"])
    head = ["table", "instructions", "exact", "wrong", "unknown", *registers]
    lines = [f"### {data['subject']}", "", _row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    for name, table in data["tables"].items():
        shares = [_share(table["registers"][r]["exact"], table["instructions"]) for r in registers]
        counts = [f"{table[key]:,}" for key in ("instructions", "exact", "wrong", "unknown")]
        lines.append(_row([name, *counts, *shares]))
    lines += ["", f"Judged, {coverage_of(data)}."]
    if data["not_judged"]:
        lines += ["", f"Not judged: {', '.join(data['not_judged'])}."]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _share(part: int, whole: int) -> str:
    """Per cent, rounded so that only all is 100 % and only none 0 %."""
    if part in (0, whole):
        return "100 %" if part else "0 %"
    return f"{min(max(100 * part / whole, 0.01), 99.99):.2f} %"


def as_junit(data: dict[str, Any], most_unknown: int) -> str:
    """One suite per table, one case per region."""
    root = ElementTree.Element("testsuites", name="jitunwind audit")
    for name in data["tables"]:
        cases = [(region, region["tables"][name]) for region in data["regions"] if name in region["tables"]]
        bad = [case for _, case in cases if case["wrong"] or case["unknown"] > most_unknown]
        suite = ElementTree.SubElement(
            root, "testsuite", name=name, tests=str(len(cases)), failures=str(len(bad)), errors="0"
        )
        for region, tally in cases:
            case = ElementTree.SubElement(
                suite, "testcase", classname=name, name=f"{region['name']} at {region['start']}"
            )
            if tally in bad:
                said = f"{tally['wrong']} wrong and {tally['unknown']} unknown of {tally['instructions']}"
                ElementTree.SubElement(case, "failure", message=said)
    ElementTree.indent(root)
    xml: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return xml.decode() + "\n"
