"""Headless Chromium, driven over a pipe by its DevTools protocol: for the picture in docs/ and for tests.

In comes a page's URL; out come what its script says, what it would have loaded, and pictures. Nothing but
Chromium itself is needed. Its protocol: https://chromedevtools.github.io/devtools-protocol/ (messages are
JSON, each ends with a NUL, on file descriptors 3 and 4).
"""

import base64
import contextlib
import json
import os
import selectors
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATIENCE = 60
OPTIONS = (
    "--headless",
    "--no-sandbox",  # as root it does not start with one; pages here are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class BrowserError(Exception):
    """Chromium says no, or nothing."""


class NoBrowserError(BrowserError):
    """There is no Chromium."""


class Page:
    """A page of its own. `complaints`: errors of its script and its console; `requests`: URLs it asked for."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._number, self._buffer = 0, b""
        self._session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> Any:
        """One call of the protocol. BrowserError for an answer that is an error, or none."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": arguments}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        """The next message; events are noted on the way."""
        while b"\0" not in self._buffer:
            with selectors.DefaultSelector() as selector:
                selector.register(self._receive, selectors.EVENT_READ)
                if not selector.select(PATIENCE):
                    raise BrowserError(f"Chromium has said nothing for {PATIENCE} s")
            data = os.read(self._receive, 1 << 20)
            if not data:
                raise BrowserError("Chromium has ended")
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(told["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(told["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    def resize(self, width: int, height: int) -> None:
        """The window's inner size; narrow ones count as phones."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def prefer(self, scheme: str) -> None:
        """What prefers-color-scheme says: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def open(self, url: str) -> None:
        """Go there, and wait until it is loaded."""
        self.call("Page.navigate", url="about:blank")  # another fragment alone loads nothing
        self.complaints.clear()
        self.requests.clear()
        self.call("Page.navigate", url=url)
        while not self.evaluate("location.protocol !== 'about:' && document.readyState === 'complete'"):
            self._next()

    def evaluate(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise. BrowserError, if it throws."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait_until(self, condition: str) -> None:
        """Until an expression is true, which it has to become by itself."""
        self.evaluate(
            "new Promise((done, fail) => { const begin = performance.now(); const look = () => "
            f"({condition}) ? done() : performance.now() - begin > {1000 * PATIENCE // 2} ? fail('never') "
            ": requestAnimationFrame(look); look(); })"
        )

    def press(self, key: str) -> None:
        """A key: Tab, Enter, Escape, ArrowDown and so on, or a character."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        codes |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        code = codes.get(key) or ord(key.upper())
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Press the mouse on the middle of an element."""
        x, y = self._middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def hover(self, selector: str) -> None:
        """Move the mouse to the middle of an element."""
        x, y = self._middle(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def _middle(self, selector: str) -> tuple[float, float]:
        x, y = self.evaluate(
            "(element => { element.scrollIntoViewIfNeeded(); const box = element.getBoundingClientRect(); "
            "return [box.x + box.width / 2, box.y + box.height / 2]; })"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        return x, y

    def picture(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextlib.contextmanager
def page() -> Iterator[Page]:
    """A Chromium of its own, with one page; ended afterwards. NoBrowserError."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise NoBrowserError("there is no chromium: install it (Debian: apt-get install chromium)")
    command = [program, *OPTIONS]
    to_read, to_send = os.pipe()
    to_receive, to_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$@" 3<&{to_read} 4>&{to_write}',
                "bash",
                *command,
                f"--user-data-dir={profile}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(to_read, to_write),
        )
        os.close(to_read)
        os.close(to_write)
        try:
            yield Page(to_send, to_receive)
        finally:
            os.close(to_send)
            os.close(to_receive)
            process.terminate()
            process.wait(PATIENCE)


def address(path: Path, fragment: str = "") -> str:
    """The URL of a file, with a fragment."""
    return f"{path.resolve().as_uri()}{'#' if fragment else ''}{fragment}"
