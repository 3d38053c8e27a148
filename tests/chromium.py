"""A real browser, driven over the DevTools protocol: Debian's chromium, headless, spoken to through a pipe.

Rules: standard library only; blocking, and nothing waits without a limit.  What the page asked for, what its console said and
what it was forbidden is kept, so that a test can say that there was nothing of it.

Not here: what the page should show, assertions.  Source: the DevTools protocol (Target, Page, Runtime, Network, Log,
Emulation); ``--remote-debugging-pipe`` speaks it on descriptors 3 and 4, as JSON with a NUL behind it.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
ANSWER_SECONDS = 20.0  # a browser that starts on a busy machine
PUMP_SECONDS = 0.05
READ_BYTES = 1 << 20

# Leads its descriptors to where the browser looks for them.
LEAD = "import os, sys; a, b = map(int, sys.argv[1:3]); os.dup2(a, 3); os.dup2(b, 4); os.execvp(sys.argv[3], sys.argv[3:])"


class BrowserFailed(Exception):
    """It is not there, ended, or did not do what it was asked."""


def find_chromium() -> str:
    """The browser of this machine.  Raises BrowserFailed."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise BrowserFailed("there is no chromium on this machine: apt-get install chromium")
    return found


class Browser:
    """One browser with a profile of its own in ``directory``.  As a context manager it ends killed."""

    def __init__(self, directory: Path) -> None:
        there, self._to = pipe()
        self._from, back = pipe()
        flags = [
            "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--hide-scrollbars=false",
            "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-extensions", "--disable-dev-shm-usage", "--disable-default-apps", "--mute-audio",
            "--force-color-profile=srgb", f"--user-data-dir={directory}",
        ]  # fmt: skip
        command = [sys.executable, "-c", LEAD, str(there), str(back), find_chromium(), *flags, "about:blank"]
        with (directory.parent / f"{directory.name}.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, pass_fds=(there, back), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                process_group=0,
            )  # fmt: skip
        os.close(there)
        os.close(back)
        self._rest = b""
        self._last = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, 9)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def open(self, url: str, *, width: int = 1200, height: int = 900, dark: bool = False) -> "Page":
        """A page as wide as that, at ``url``."""
        target = self.ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.ask(f"{domain}.enable")
        page.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.ask("Emulation.setEmulatedMedia", {"features": [scheme]})
        page.ask("Page.navigate", {"url": url})
        page.wait_for("document.readyState === 'complete' && location.protocol !== 'about:'", ANSWER_SECONDS)
        return page

    def ask(self, method: str, params: dict[str, Any] | None = None, session: str | None = None) -> dict[str, Any]:
        """Have something done.  Raises BrowserFailed."""
        self._last += 1
        said = {"id": self._last, "method": method, "params": params or {}}
        message = json.dumps(said | ({"sessionId": session} if session else {})).encode() + b"\0"
        while message:
            message = message[os.write(self._to, message) :]
        deadline = time.monotonic() + ANSWER_SECONDS
        while self._last not in self._answers:
            if time.monotonic() > deadline:
                raise BrowserFailed(f"no answer to {method}")
            self.pump(PUMP_SECONDS)
        answer = self._answers.pop(self._last)
        if "error" in answer:
            raise BrowserFailed(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def pump(self, seconds: float) -> None:
        """Take in what the browser says, waiting for so long at most."""
        if not select.select([self._from], [], [], seconds)[0]:
            return
        received = os.read(self._from, READ_BYTES)
        if not received:
            raise BrowserFailed("the browser ended")
        *messages, self._rest = (self._rest + received).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            elif page := self._pages.get(message.get("sessionId", "")):
                page.hear(message["method"], message["params"])


@dataclass(slots=True)
class Page:
    """One page.  ``complaints``: what its console said above information; ``requests``: the URLs of all its requests."""

    browser: Browser
    session: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def ask(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        return self.browser.ask(method, params, self.session)

    def hear(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"])[:2000])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(params["args"])[:2000])
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                entry = params["entry"]
                self.complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", metrics)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, which may be a promise."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self.ask("Runtime.evaluate", asked)
        if "exceptionDetails" in answer:
            raise BrowserFailed(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    @property
    def text(self) -> str:
        """What can be read on it."""
        return str(self.evaluate("document.body.innerText"))

    def wait_for(self, expression: str, seconds: float) -> float:
        """Return when it has become true, after how many seconds that was; raise BrowserFailed if it does not in time."""
        began = time.monotonic()
        while not self.evaluate(expression):
            if time.monotonic() - began > seconds:
                raise BrowserFailed(
                    f"{expression} did not come true within {seconds} s; {self.complaints}\n{self.text}"
                )
            self.browser.pump(PUMP_SECONDS)
        return time.monotonic() - began

    def watch(self, seconds: float) -> None:
        """Let the page live for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.browser.pump(PUMP_SECONDS)

    def press(self, selector: str) -> None:
        self.evaluate(f"document.querySelector({selector!r}).click()")

    def screenshot(self, path: Path, height: int | None = None) -> None:
        """The whole page as a PNG, or its first ``height`` pixels."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        whole = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], height or 8000), "scale": 1}
        asked = {"format": "png", "captureBeyondViewport": True, "clip": whole}
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", asked)["data"]))


def pipe() -> tuple[int, int]:
    """A pipe whose descriptors are not those that the browser wants."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
