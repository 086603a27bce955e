"""The results of checking files as data, as Markdown and as JUnit XML; `cli/check.py` writes them out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jitunwind.check.files import Place, Result
from jitunwind.wording import counted


@dataclass
class Unusable:
    """A file that could not be checked: what is wrong with it, and what to do."""

    file: str
    message: str
    hint: str


@dataclass
class Checked:
    """All files. `violations` are by file, where stencils' frame pointer was looked at; `unproven`: exits of
    which it is not known whether they leave the stack as it was."""

    results: list[Result] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)
    violations: dict[str, list[Place]] = field(default_factory=dict)
    unproven: dict[str, list[Place]] = field(default_factory=dict)
    seconds: float = 0.0
    is_interrupted: bool = False
    not_begun: list[str] = field(default_factory=list)
    """The files that an interruption has kept from being looked at."""

    @property
    def wrong(self) -> Counter[str]:
        return sum((Counter(result.wrong) for result in self.results), Counter())

    @property
    def unknown(self) -> Counter[str]:
        return sum((Counter(result.unknown) for result in self.results), Counter())

    @property
    def fdes(self) -> int:
        return sum(result.fdes for result in self.results)

    @property
    def judged_functions(self) -> int:
        return sum(result.judged_functions for result in self.results)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong that was looked at."""
        return not self.wrong and not any(self.violations.values())


def as_data(checked: Checked) -> dict[str, Any]:
    """What `check --json` prints: see docs/using.md."""
    return {
        "files": [_file(checked, result) for result in checked.results],
        "unusable": [asdict(each) for each in checked.unusable],
        "fdes": checked.fdes,
        "instructions": sum(result.instructions for result in checked.results),
        "exact": sum(result.exact for result in checked.results),
        "wrong": dict(checked.wrong.most_common()),
        "unknown": dict(checked.unknown.most_common()),
        "seconds": round(checked.seconds, 3),
        "fdes_per_second": per_second(checked.judged_functions, checked.seconds),
        "interrupted": checked.is_interrupted,
        "not_begun": checked.not_begun,
    }


def _file(checked: Checked, result: Result) -> dict[str, Any]:
    data = asdict(result)
    if result.file in checked.violations:
        data["violations"] = [asdict(place) for place in checked.violations[result.file]]
        data["unproven"] = [asdict(place) for place in checked.unproven[result.file]]
    return data


def per_second(count: int, seconds: float) -> int:
    return round(count / max(seconds, 0.001))


def as_markdown(results: Sequence[Result]) -> str:
    """One line per file, and what is wrong and unknown in each."""
    lines = [
        "| file | architecture | functions | cold parts | instructions | judged | agree | share | "
        "functions that disagree | instructions/s |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for r in results:
        lines.append(
            f"| {Path(r.file).name} | {r.architecture} | {r.functions:,} | {r.cold_parts:,} | {r.instructions:,} | "
            f"{r.judged:,} | {r.exact:,} | {r.share:.4%} | {r.wrong_functions:,} | "
            f"{per_second(r.instructions, r.seconds):,} |"
        )
    for r in results:
        lines += ["", f"### {Path(r.file).name}, {r.architecture}", ""]
        lines += [
            f"{r.padding:,} instructions are padding between blocks; {counted(r.seeded, 'part')} judged from "
            f"an FDE's own first row; {r.assumed_calls:,} calls are taken never to return; "
            f"{r.unresolved_jumps:,} indirect jumps are not understood; "
            f"{r.off_balance_returns:,} returns leave the stack or a register other than they found it.",
            "",
            *verdicts(r.wrong, r.unknown),
        ]
    return "\n".join(lines) + "\n"


def verdicts(wrong: dict[str, int], unknown: dict[str, int]) -> list[str]:
    """A table of the classes of disagreement, and of the reasons for not knowing."""
    lines = ["| verdict | class or reason | instructions |", "| --- | --- | --: |"]
    lines += [f"| wrong | {about} | {count:,} |" for about, count in wrong.items()]
    lines += [f"| unknown | {reason} | {count:,} |" for reason, count in unknown.items()]
    return lines


def as_junit(checked: Checked) -> str:
    """One suite per file, one case per function that is wrong, and one for all the others together."""
    root = ElementTree.Element("testsuites", name="jitunwind check")
    for result in checked.results:
        by_function: dict[str, list[Place]] = {}
        for place in [*result.places, *checked.violations.get(result.file, ())]:
            by_function.setdefault(place.function.rpartition("+")[0], []).append(place)
        suite = _suite(root, result.file, len(by_function) + 1, len(by_function), 0)
        for function, places in by_function.items():
            case = ElementTree.SubElement(suite, "testcase", classname=result.file, name=function)
            failure = ElementTree.SubElement(
                case, "failure", message=f"{places[0].function}: {places[0].about}"
            )
            failure.text = "\n".join(
                f"{place.function}: {place.instruction}: {place.about}" for place in places
            )
        ElementTree.SubElement(suite, "testcase", classname=result.file, name="all other functions")
    for each in checked.unusable:
        suite = _suite(root, each.file, 1, 0, 1)
        case = ElementTree.SubElement(suite, "testcase", classname=each.file, name="is usable")
        ElementTree.SubElement(case, "error", message=each.message)
    ElementTree.indent(root)
    xml: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return xml.decode() + "\n"


def _suite(
    root: ElementTree.Element, name: str, tests: int, failures: int, errors: int
) -> ElementTree.Element:
    counts = {"tests": str(tests), "failures": str(failures), "errors": str(errors)}
    return ElementTree.SubElement(root, "testsuite", {"name": name, **counts})
