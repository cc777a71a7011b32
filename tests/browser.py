"""A Chromium without a window, for tests of pages.

    with Browser(tmp_path) as browser:
        page = browser.open(path)
        page.key("Tab")
        assert page.evaluate("document.activeElement.tagName") == "BUTTON"
        assert not page.errors

It is driven by the Chrome DevTools Protocol: JSON messages, each ended by a zero byte,
over two pipes.
"""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)
needs_chromium = pytest.mark.skipif(
    not CHROMIUM, reason=f"none of {', '.join(_NAMES)} is on PATH"
)
_KEYS = {"Tab": 9, "Enter": 13, " ": 32, "Home": 36}
_KEYS |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
_SHIFT = 8


class Browser:
    """A process of Chromium.

    Args:
        folder: an empty or new folder for the files of the browser.
    """

    def __init__(self, folder: Path):
        assert CHROMIUM
        own_in, self._out = os.pipe()
        self._in, own_out = os.pipe()
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={folder}"]
        # The protocol is spoken over the descriptors 3 and 4.
        shell = f'exec "$@" 3<&{own_in} 4>&{own_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=(own_in, own_out),
            stderr=subprocess.DEVNULL,
        )
        os.close(own_in)
        os.close(own_out)
        self._file = os.fdopen(self._in, "rb")
        self._number, self._rest = 0, b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._file.close()
        os.close(self._out)

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """Calls a method of the protocol and returns its result; events are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            found = os.read(self._in, 2**20)
            assert found, "the browser has ended"
            self._rest += found
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, width: int = 1280, dark: bool = False) -> "Page":
        """Opens a page in a tab of its own and waits until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)
        return Page(self, session["sessionId"], path, width, dark)


class Page:
    """A page in a browser.

    Attributes:
        errors: errors in its console, and errors that no script caught.
    """

    def __init__(
        self, browser: Browser, session: str, path: Path, width: int, dark: bool
    ):
        self._browser, self._session = browser, session
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", **size, mobile=width < 500)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete'")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Calls a method of the protocol for this page."""
        return self._browser.call(method, self._session, **params)

    def evaluate(self, script: str) -> Any:
        """Returns the value of an expression in the page, which JSON can hold."""
        options = {"returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(condition):
            assert time.monotonic() < end, f"{condition} did not become true"
            time.sleep(0.02)

    def key(self, key: str, *, shift: bool = False) -> None:
        """Presses and releases a key."""
        event = {"key": key, "windowsVirtualKeyCode": _KEYS[key]}
        text = {" ": " ", "Enter": "\r"}.get(key)
        own = {"text": text} if text else {}
        modifiers = _SHIFT if shift else 0
        for kind in ("keyDown", "keyUp"):
            extra = own if kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                modifiers=modifiers,
                **event,
                **extra,
            )

    def pointer(self, kind: str, x: float, y: float, *, pressed: bool = False) -> None:
        """Moves, presses or releases the mouse at a place of the window."""
        button = {"button": "left", "buttons": 1} if pressed else {}
        place = {"type": f"mouse{kind}", "x": x, "y": y, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", **place, **button)

    def screenshot(self, *, whole: bool = True, clip: Any = None) -> bytes:
        """Returns a picture of the page, or of a part of it, as PNG."""
        part = {"clip": {**clip, "scale": 1}} if clip else {}
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **part)
        return base64.b64decode(found["data"])

    @property
    def errors(self) -> list[str]:
        """Returns errors in its console, and errors that no script caught."""
        self.evaluate("0")  # Events that came before are read.
        texts = []
        for event in self._browser.events:
            params = event.get("params", {})
            if event.get("sessionId") != self._session:
                continue
            match event.get("method"):
                case "Runtime.exceptionThrown":
                    texts.append(json.dumps(params["exceptionDetails"]))
                case "Runtime.consoleAPICalled" if params["type"] == "error":
                    texts.append(json.dumps(params["args"]))
                case "Log.entryAdded" if params["entry"]["level"] == "error":
                    texts.append(params["entry"]["text"])
        return texts
