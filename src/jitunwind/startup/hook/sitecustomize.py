"""Switches publishing on in a Python that `jitunwind run` has started, before its program begins.

The folder of this file is then the first on PYTHONPATH, so that Python's site module imports this one in place of
the machine's own sitecustomize. All traces of that are removed first: from sys.path, from sys.modules and from the
environment, which is that of the program and its children. Last, the machine's own sitecustomize has its turn.
"""

import os
import sys


def _publish() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    sys.path_importer_cache.pop(here, None)
    search = os.environ.pop("JITUNWIND_RUN").split(os.pathsep)
    before = os.environ.pop("JITUNWIND_PYTHONPATH", None)
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    os.environ.setdefault("JITUNWIND", "1")  # for children that have jitunwind installed

    finder = os.path.join(os.path.dirname(here), "finder.py")
    names = {"__name__": "jitunwind.startup.finder", "__file__": finder}
    with open(finder, encoding="utf-8") as source:
        exec(compile(source.read(), finder, "exec"), names)
    names["install"](search)  # type: ignore[operator]
    from jitunwind.startup import switch_on

    switch_on()


if "JITUNWIND_RUN" in os.environ:
    _publish()
    del sys.modules["sitecustomize"]
    __import__("sitecustomize")  # site expects the error of this import, where there is none
