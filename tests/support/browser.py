"""Chromium without a window, driven over a pipe by the DevTools protocol; no package is needed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)

ANSWERED = 60
"""Seconds after which Chromium hangs, on a busy machine too."""


def chromium() -> str | None:
    """Return the path of Chromium; None if it is not installed."""
    return next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tab:
    """A page in the browser, with what it logged and requested."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.problems: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        result = self._browser.send(method, session=self._session, **params)
        self._collect()
        return result

    def open(self, path: Path, width: int = 1100, **features: str) -> None:
        """Load a file at a width, with media features such as `prefers_color_scheme`."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        media = [{"name": n.replace("_", "-"), "value": v} for n, v in features.items()]
        self.send("Emulation.setEmulatedMedia", features=media)
        self.send("Page.navigate", url=path.resolve().as_uri())
        self._browser.wait_for("Page.loadEventFired")
        self._collect()

    def js(self, code: str, *, wait: bool = False) -> Any:
        """Return the value of an expression on the page; with `wait`, of what it promises."""
        answer = self.send(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=wait
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key, for example Enter."""
        code = {"Enter": 13, " ": 32}[key]
        text = "\r" if key == "Enter" else key
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                      **extra)  # fmt: skip

    def _collect(self) -> None:
        for event in self._browser.events:
            params = event.get("params", {})
            if event["method"] == "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            elif event["method"] == "Runtime.exceptionThrown":
                self.problems.append(str(params["exceptionDetails"]))
            elif event["method"] in ("Log.entryAdded", "Runtime.consoleAPICalled"):
                self.problems.append(str(params))
        self._browser.events.clear()


class Browser:
    """The running browser."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = os.fdopen(to, "wb", buffering=0), os.fdopen(back, "rb", buffering=0)
        self._n, self._rest = 0, b""
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """Close the pipes, which ends the browser."""
        self._to.close()
        self._back.close()

    def tab(self) -> Tab:
        """Open an empty page."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Tab(self, session)

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come before it are kept."""
        self._n += 1
        message = {"id": self._n, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._n:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            if "method" in answer:
                self.events.append(answer)

    def wait_for(self, method: str) -> None:
        """Wait for an event."""
        while not any(event["method"] == method for event in self.events):
            answer = self._next()
            if "method" in answer:
                self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._back], [], [], ANSWERED)
            assert ready, f"Chromium gave no answer in {ANSWERED} s"
            part = self._back.read(1 << 16)
            assert part, "Chromium ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))


@contextlib.contextmanager
def running(path: str) -> Iterator[Browser]:
    """Run the browser, and end it afterwards."""
    read_commands, write_commands = os.pipe()
    read_answers, write_answers = os.pipe()

    def as_three_and_four() -> None:
        # Chromium reads commands from descriptor 3 and answers on 4.
        commands, answers = os.dup(read_commands), os.dup(write_answers)
        os.dup2(commands, 3)
        os.dup2(answers, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={profile}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=as_three_and_four,
        )
        os.close(read_commands)
        os.close(write_answers)
        browser = Browser(write_commands, read_answers)
        try:
            yield browser
        finally:
            with contextlib.suppress(OSError, AssertionError):
                browser.send("Browser.close")
            browser.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def axe() -> str | None:
    """Return the script of axe-core, from the package that carries it; None without the package."""
    spec = find_spec("axe_playwright_python")  # only its file is used, not the package
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).with_name("axe.min.js").read_text(encoding="utf-8")


def faults(tab: Tab, script: str) -> list[str]:
    """Return the serious and critical faults that axe-core finds on the page."""
    tab.js(f"{script};0")
    found = tab.js("axe.run({resultTypes: ['violations']}).then(r => r.violations)", wait=True)
    return [
        f"{each['id']}: {each['help']}: {each['nodes'][0]['html']}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def shown_rows(tab: Tab, table: str = "table") -> int:
    """Return how many rows of the first table that matches a selector have a place on the page."""
    return int(
        tab.js(
            f"Array.from(document.querySelector('{table}').tBodies[0].rows)"
            ".filter(row => row.getClientRects().length).length"
        )
    )


def check_page(browser: Browser, path: Path) -> None:
    """Check what holds for every page: quiet, alone, themed, readable on a phone and by all.

    Without the package that carries axe-core, only its part is left out.
    """
    script, colours = axe(), set()
    for scheme in ("light", "dark"):
        for width in (1100, 380):
            tab = browser.tab()
            tab.open(path, width=width, prefers_color_scheme=scheme)
            assert tab.js("document.documentElement.scrollWidth <= window.innerWidth"), width
            colours.add(tab.js("getComputedStyle(document.body).backgroundColor"))
            assert tab.problems == []
            assert tab.requests == [path.resolve().as_uri()]
            if script is not None:
                tab.js("document.querySelectorAll('details').forEach(each => { each.open = true })")
                assert faults(tab, script) == [], f"{scheme}, {width} px"
    assert len(colours) == 2
    tab.open(path, width=700)  # about the width of A4 between its margins
    tab.send("Emulation.setEmulatedMedia", media="print")
    assert tab.js("document.documentElement.scrollWidth <= window.innerWidth")
    pdf = tab.send("Page.printToPDF")["data"]
    assert len(pdf) > 10_000
