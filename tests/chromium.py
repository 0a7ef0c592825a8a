"""A real Chromium without a window, led through its debugging pipe; see chromedevtools.github.io/devtools-protocol."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.waiting import PATIENCE_S

_COMMANDS, _ANSWERS = 3, 4  # the descriptors that --remote-debugging-pipe reads from and writes to
_TIMEOUT_S = 60.0
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # the sandbox refuses root
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)


class ChromiumError(Exception):
    """It answered with an error, or not at all."""


class Chromium:
    """A running browser."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._buffer = b""
        self._last = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """Send a command and return its result; what happened meanwhile is kept in `events`."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            answer = self._read(deadline, method)
            if answer.get("id") != self._last:
                self.events.append(answer)
            elif "error" in answer:
                raise ChromiumError(f"{method}: {answer['error']['message']}")
            else:
                return dict(answer["result"])

    def _read(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._answers], [], [], max(0, deadline - time.monotonic()))[0]:
                raise ChromiumError(f"{method}: no answer within {_TIMEOUT_S:.0f} s")
            data = os.read(self._answers, 1 << 20)
            if not data:
                raise ChromiumError(f"{method}: the browser is gone")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def page(self) -> Page:
        """Open an empty page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session)


class Page:
    """One page; everything it says or asks for is kept."""

    def __init__(self, chromium: Chromium, session: str) -> None:
        self._chromium = chromium
        self._session = session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command to this page."""
        return self._chromium.call(method, self._session, **params)

    def events(self, *methods: str) -> list[dict[str, Any]]:
        """Return the parameters of what happened, of these kinds."""
        self.evaluate("0")  # so that everything before is here
        mine = [event for event in self._chromium.events if event.get("sessionId") == self._session]
        return [event["params"] for event in mine if event["method"] in methods]

    @property
    def requests(self) -> list[str]:
        """The addresses asked for."""
        return [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]

    @property
    def complaints(self) -> list[str]:
        """Everything on the console, whatever its level, and what was thrown."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event) for event in self.events(*kinds)]

    def open(self, path: Path, *, until: str = "document.readyState === 'complete'") -> None:
        """Go to a file, and wait until an expression is true."""
        self.call("Page.navigate", url=path.absolute().as_uri())
        self.wait(until)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression; of a promise, what comes of it."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise ChromiumError(f"{expression}: {json.dumps(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + _TIMEOUT_S
        while not self.evaluate(expression):
            if time.monotonic() > deadline:
                raise ChromiumError(f"not true within {_TIMEOUT_S:.0f} s: {expression}; {self.complaints}")
            time.sleep(0.05)

    def resize(self, width: int, height: int, *, scale: float = 1, mobile: bool = False) -> None:
        """Give the page a screen of this size, in CSS pixels; a mobile one is touched, not clicked."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=mobile)

    def prefer(self, scheme: str, *, medium: str = "") -> None:
        """Prefer "light" or "dark", on this medium ("print")."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=medium, features=features)

    def click(self, x: float, y: float) -> None:
        """Press the left button there."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = "none" if kind == "mouseMoved" else "left"
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def tap(self, x: float, y: float) -> None:
        """Touch there with a finger."""
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key: str, code: int) -> None:
        """Press a key by its name and its virtual key code."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, clip: dict[str, float] | None = None) -> bytes:
        """Return a PNG of what is seen, or of a part of the whole page: x, y, width, height, scale."""
        more: dict[str, Any] = {"clip": clip, "captureBeyondViewport": True} if clip else {}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", **more)["data"])

    def pdf(self) -> bytes:
        """Print."""
        answer = self.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        return base64.b64decode(answer["data"])


@contextmanager
def chromium(program: str = "chromium") -> Iterator[Chromium]:
    """Start a browser with a profile of its own, and end it."""
    with tempfile.TemporaryDirectory(prefix="pe-chromium-", ignore_cleanup_errors=True) as profile:
        commands_in, commands = os.pipe()
        answers, answers_out = os.pipe()
        # Out of the way of 3 and 4, which they are given in the child.
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ANSWERS + 1) for fd in (commands_in, answers_out)]
        os.close(commands_in)
        os.close(answers_out)

        def descriptors() -> None:
            os.dup2(theirs[0], _COMMANDS)
            os.dup2(theirs[1], _ANSWERS)

        child = subprocess.Popen(
            [program, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
            pass_fds=(_COMMANDS, _ANSWERS),
            preexec_fn=descriptors,
        )
        for fd in theirs:
            os.close(fd)
        browser = Chromium(commands, answers)
        try:
            yield browser
        finally:
            _end(browser, child)
            os.close(commands)
            os.close(answers)


def _end(browser: Chromium, child: subprocess.Popen[bytes]) -> None:
    """Ask it to end, so that its own children do; by force if it does not."""
    try:
        browser.call("Browser.close")
    except (ChromiumError, OSError):
        child.kill()
    try:
        child.wait(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
