"""Asks each reader of call frame information about every case of tests/readers, and puts the answers into a page.

    python bench/readers.py [--into docs/readers.md]

It fails, and says where, if a reader answers otherwise than is recorded: then tests/readers/recorded.py is to be
changed, and what the page says with it.
"""

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from support import ROOT, put_into

sys.path.insert(0, str(ROOT))

from tests.readers.cases import CASES
from tests.readers.page import lists, table
from tests.readers.readers import READERS, Workshop
from tests.readers.recorded import recorded, words


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--into", type=Path, help="the page")
    options = parser.parse_args()
    found: dict[tuple[str, str, str], str] = {}
    asked, surprises = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for reader in READERS:
            readings = {version: ask(Workshop(Path(folder))) for version, ask in reader.versions.items()}
            versions = ", ".join(filter(None, (reading.version for reading in readings.values())))
            asked.append(f"- {reader.name}{f' ({versions})' if versions else ''}, told {reader.told}")
            print(asked[-1], flush=True)
            for version, reading in readings.items():
                for case in CASES:
                    said = words(reading.answers[case.name], case.standard)
                    found[case.name, reader.name, version] = said
                    if said != (expected := recorded(case.name, reader.name, version)):
                        print(f"{reader.name} {version}: {case.name}: {said}, recorded is {expected}")
                        surprises += 1
    made = f"Generated on {datetime.now(UTC):%Y-%m-%d} by `make readers`, which asked:\n\n" + "\n".join(asked)
    figures = table(lambda *cell: found[cell])
    print(figures)
    if options.into and not surprises:
        put_into(options.into, lists(), "portable")
        put_into(options.into, f"{made}\n\n{figures}", "table")
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
