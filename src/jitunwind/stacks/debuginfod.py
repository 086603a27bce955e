"""Debug files from debuginfod servers, for those who ask for them (debuginfod(8), debuginfod-find(1)).

In comes a build-id, out goes the path of a file. Files are kept where debuginfod's own client, and so GDB, keeps
them.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jitunwind.elf.headers import Headers
from jitunwind.stacks.separate import opened_elf

URLS = "DEBUGINFOD_URLS"
_TIMEOUT = "DEBUGINFOD_TIMEOUT"
_CACHE = "DEBUGINFOD_CACHE_PATH"
_USUAL_SECONDS = 90.0
_MOST_BYTES = 1 << 32


def servers() -> list[str]:
    """The URLs that the environment names, of HTTP."""
    found = os.environ.get(URLS, "").split()
    return [url.rstrip("/") for url in found if url.startswith(("http://", "https://"))]


def debug_file(build_id: str, urls: Sequence[str]) -> tuple[str, Headers] | None:
    """The debug file with that build-id, kept or fetched, and its headers; None where no server has it."""
    kept = cache() / build_id / "debuginfo"
    headers = opened_elf(str(kept))
    if headers is not None and headers.build_id == build_id:
        return str(kept), headers
    for url in urls:
        with contextlib.suppress(OSError, ValueError):
            if _fetch(f"{url}/buildid/{build_id}/debuginfo", kept):
                headers = opened_elf(str(kept))
                if headers is not None and headers.build_id == build_id:
                    return str(kept), headers
    return None


def cache() -> Path:
    """The folder of debuginfod's client."""
    named = os.environ.get(_CACHE, "")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME", "") or os.path.expanduser("~/.cache")
    return Path(base) / "debuginfod_client"


def _fetch(url: str, path: Path) -> bool:
    """Whether the server had the file, which is at `path` then. OSError, ValueError."""
    from urllib.request import Request, urlopen  # takes longer to import than all else here

    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with open(descriptor, "wb") as file:
            request = Request(url, headers={"User-Agent": "jitunwind"})
            with urlopen(request, timeout=_seconds()) as reply:
                if int(reply.headers.get("Content-Length") or 0) > _MOST_BYTES:
                    return False
                shutil.copyfileobj(reply, file, 1 << 20)
        os.replace(beside, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
    return True


def _seconds() -> float:
    try:
        return float(os.environ.get(_TIMEOUT, "")) or _USUAL_SECONDS
    except ValueError:
        return _USUAL_SECONDS
