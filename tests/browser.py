"""A WebDriver client of a few lines, for the checks of the built book in headless Chromium."""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DRIVER = shutil.which("chromedriver")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = "needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)"


class Browser:
    """One browser session: pages, scripts, keys, pictures."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode(errors="replace")[:500]) from None

    def open(self, page: Path, *, width: int = 1280, height: int = 900) -> None:
        """Opens a file at a width in CSS pixels, as a phone would show it."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 700},
        )
        self.call("POST", "/url", {"url": page.resolve().as_uri()})

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def script(self, code: str) -> Any:
        """What a JavaScript function body returns."""
        return self.call("POST", "/execute/sync", {"script": code, "args": []})

    def wait(self, code: str, *, seconds: float = 20) -> bool:
        """Whether a JavaScript expression became true in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.script(f"return Boolean({code})"):
                return True
            time.sleep(0.1)
        return False

    def keys(self, *keys: str) -> None:
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        body = {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}
        self.call("POST", "/actions", body)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        answer = self.devtools("Page.captureScreenshot", {"captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium with a profile of its own, closed at the end."""
    if not (DRIVER and CHROMIUM):
        raise RuntimeError(MISSING)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = subprocess.Popen(
            [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            session = _session(f"http://127.0.0.1:{port}", profile)
            yield session
            session.call("DELETE", "")
        finally:
            driver.terminate()
            driver.wait(timeout=20)


def _session(base: str, profile: str) -> Browser:
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    # What a page asks for elsewhere must fail, as it would without a network.
    arguments += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    options = {"binary": CHROMIUM, "args": arguments}
    body = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
    start = Browser(base)
    for _ in range(100):
        with contextlib.suppress(OSError):
            answer = start.call("POST", "/session", body)
            return Browser(f"{base}/session/{answer['sessionId']}")
        time.sleep(0.1)
    raise RuntimeError("chromedriver did not start")
