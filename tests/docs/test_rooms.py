"""The rooms of the code, as docs/how-it-works.md shows them."""

import re
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]


def layers() -> list[list[str]]:
    """The rooms by layer, from the top, as the first contract has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [re.findall(r"jitunwind\.(\w+)", layer) for layer in contracts[0]["layers"]]


def test_the_docs_show_the_rooms_that_make_lint_checks():
    table = (ROOT / "docs/how-it-works.md").read_text().partition("| room | is |")[2].partition("\n\n")[0]
    assert [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()[2:]] == layers()


def test_each_room_is_in_one_layer():
    rooms = {path.stem for path in (ROOT / "src/jitunwind").iterdir() if path.suffix in ("", ".py")}
    assert sorted(rooms - {"__init__", "__main__", "__pycache__"}) == sorted(
        room for layer in layers() for room in layer
    )


def test_no_module_imports_itself_by_others():
    graph = grimp.build_graph("jitunwind", cache_dir=None)  # with what is imported for types
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # CycleError names a circle
