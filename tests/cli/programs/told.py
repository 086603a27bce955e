"""Prints what a program can see of how it was started."""

import json
import os
import sys

main = sys.modules["__main__"]
seen = {
    "argv": sys.argv,
    "orig_argv": sys.orig_argv,
    "path": sys.path,
    "flags": repr(sys.flags),
    "warnoptions": sys.warnoptions,
    "executable": sys.executable,
    "main": {
        name: repr(value)
        for name, value in vars(main).items()
        if name.startswith("__") and name != "__builtins__"
    },
    "names": sorted(vars(main)),
    "site": sorted(name for name in sys.modules if "site" in name),
    "folders": [each for each in sys.path_importer_cache if "hook" in each],
    "environment": dict(sorted(os.environ.items())),
    "is_jit_on": sys._jit.is_enabled(),
}
print(json.dumps(seen, indent=1, default=repr))
