"""An audit's results as data, as Markdown and as JUnit XML."""

from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

from jitunwind.audit.stepper import Counts
from jitunwind.audit.verdicts import Findings

MOST_REASONS = 20


def as_data(subject: str, counts: Counts, seconds: float, findings: dict[str, Findings]) -> dict[str, Any]:
    """What `audit --json` prints: see docs/using.md."""
    regions: dict[tuple[int, str], dict[str, Any]] = {}
    for name, found in findings.items():
        for (start, region), tally in found.regions.items():
            entry = regions.setdefault(
                (start, region), {"start": f"{start:#x}", "name": region, "witness": "stepped", "tables": {}}
            )
            entry["tables"][name] = {"instructions": tally.instructions, **tally.as_json()}
    return {
        "subject": subject,
        "seconds": round(seconds, 3),
        "witnesses": {"stepped": counts.instructions},
        "counts": asdict(counts),
        "tables": {name: _table(found) for name, found in findings.items()},
        "regions": [regions[key] for key in sorted(regions)],
        "examples": [
            {"table": name, **example} for name, found in findings.items() for example in found.examples
        ],
    }


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
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
