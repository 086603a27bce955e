"""A pytest plugin that writes down which cases there are: `pytest --collect-only -p tests.support.listed`.

It writes JSON to the file that JITUNWIND_CASES names: `collected`, by node id the names of the markers; `reasons`, by
node id the argument of `one_version`, and whether the test itself has that marker or its module; and `deselected`, a
list of node ids.
"""

import json
import os
from pathlib import Path

import pytest

_deselected: list[str] = []


def pytest_deselected(items: list[pytest.Item]) -> None:
    _deselected.extend(item.nodeid for item in items)


def pytest_collection_finish(session: pytest.Session) -> None:
    collected = {item.nodeid: sorted({mark.name for mark in item.iter_markers()}) for item in session.items}
    reasons = {
        item.nodeid: (mark.args[0], node is item)
        for item in session.items
        for node, mark in item.iter_markers_with_node("one_version")
    }
    found = {"collected": collected, "reasons": reasons, "deselected": _deselected}
    Path(os.environ["JITUNWIND_CASES"]).write_text(json.dumps(found))
