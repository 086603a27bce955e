"""Explanations as plain data, for `explain --json`: see docs/using.md."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from jitunwind.explain.model import Answer, Block, Comparison, Explained, Listed, Summary
from jitunwind.explain.origin import Origin
from jitunwind.notation import Parts


def as_data(
    origin: Origin, summary: Summary, regions: Sequence[Explained], warnings: Sequence[str]
) -> dict[str, Any]:
    """Addresses are strings of hexadecimal digits, offsets numbers. An instruction's `answer` is an index into
    `answers`: code has thousands of instructions, and few answers."""
    answers: dict[int, Answer] = {}
    for region in regions:
        for each in region.instructions:
            answers.setdefault(id(each.answer), each.answer)
    numbers = {identity: number for number, identity in enumerate(answers)}
    return {
        **asdict(origin),
        "architecture": summary.arch.name,
        "summary": {
            **{each.name: getattr(summary, each.name) for each in fields(summary) if each.name != "arch"},
            "tables": {name: _comparison(found) for name, found in summary.tables.items()},
        },
        "answers": [_answer(each) for each in answers.values()],
        "regions": [_region(each, numbers) for each in regions],
        "warnings": list(warnings),
    }


def _comparison(found: Comparison) -> dict[str, Any]:
    return {
        "compared": found.compared,
        "differing": found.differing,
        "unknown": found.unknown,
        "registers": dict(found.registers),
        "everywhere": {
            register: {"recovered": ours, "table": said}
            for register, (said, ours) in found.everywhere.items()
        },
    }


def _region(region: Explained, numbers: dict[int, int]) -> dict[str, Any]:
    listed: Listed = region.listed
    return {
        "number": listed.number,
        "start": f"{listed.code.start:#x}",
        "size": listed.code.size,
        "name": listed.name,
        "micro_ops": listed.micro_ops,
        "begin": {"file": listed.begin[0], "line": listed.begin[1]} if listed.begin is not None else None,
        "threads": list(listed.threads) if listed.threads is not None else None,
        "problem": region.why or None,
        "blocks": [_block(each, numbers) for each in region.blocks],
        "jumps": [{"from": each.source, "to": each.target} for each in region.jumps],
    }


def _block(block: Block, numbers: dict[int, int]) -> dict[str, Any]:
    source = block.source
    return {
        "start": block.start,
        "end": block.end,
        "micro_op": block.title if block.is_micro_op else None,
        "detail": block.detail,
        "source": asdict(source) if source is not None else None,
        "instructions": [
            {"offset": each.offset, "text": each.text, "answer": numbers[id(each.answer)]}
            for each in block.instructions
        ],
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "row": answer.row or None,
        "unknown": answer.reason or None,
        "differs": {
            name: {"row": found.said, "registers": _registers(found.registers, found.said)}
            for name, found in answer.differences.items()
        },
        "silent": answer.unknown,
    }


def _registers(recovered: Parts, said: Parts) -> dict[str, Parts]:
    return {name: {"recovered": rule, "table": said[name]} for name, rule in recovered.items()}
