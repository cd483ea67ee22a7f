"""A headless Chromium that a test opens pages in, driven by its DevTools protocol."""

import asyncio
import base64
import json
import re
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

# All text of a page, that in shadow trees and frames included.
TEXT = """(() => { const out = []; const walk = (node) => {
  if (node.nodeType === Node.TEXT_NODE) out.push(node.textContent);
  if (node.tagName === 'STYLE' || node.tagName === 'SCRIPT') return;
  if (node.shadowRoot) walk(node.shadowRoot);
  if (node.tagName === 'IFRAME' && node.contentDocument) walk(node.contentDocument.body);
  node.childNodes.forEach(walk); }; walk(document.body); return out.join(' '); })()"""
# How many elements a selector finds, in shadow trees and frames, too.
COUNT = """(selector => { let n = 0; const walk = (root) => {
  n += root.querySelectorAll(selector).length;
  root.querySelectorAll('*').forEach(e => { if (e.shadowRoot) walk(e.shadowRoot);
    if (e.tagName === 'IFRAME' && e.contentDocument) walk(e.contentDocument); }); };
  walk(document); return n; })"""


class Page:
    """A tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls = 0

    async def _call(self, method: str, **params):
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": params})
        while True:
            message = json.loads((await self._socket.receive()).data)
            if message.get("id") == self._calls:
                return message["result"]

    async def open(self, url: str) -> None:
        await self._call("Page.navigate", url=url)

    async def evaluate(self, expression: str):
        result = await self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    async def text(self) -> str:
        return re.sub(r"\s+", " ", await self.evaluate(TEXT) or "")

    async def count(self, selector: str) -> int:
        return await self.evaluate(f"{COUNT}({selector!r})") or 0

    async def wait_for(self, *words: str, selector: str | None = None, seconds: float = 40) -> None:
        """Returns when the page shows all words, and something that the selector finds."""
        for _ in range(int(seconds * 2)):
            text = await self.text()
            if all(word in text for word in words) and (selector is None or await self.count(selector)):
                return
            await asyncio.sleep(0.5)
        missing = [word for word in words if word not in text]
        raise AssertionError(f"the page lacks {missing or selector}; it says: {text[:2000]}")

    async def screenshot(self, path: Path) -> None:
        await asyncio.sleep(1.5)  # charts are drawn after their text
        path.write_bytes(base64.b64decode((await self._call("Page.captureScreenshot"))["data"]))


@asynccontextmanager
async def browser(executable: str, profile: Path, size: tuple[int, int] = (1400, 1000)):
    """A page of a fresh Chromium; it ends with the block."""
    arguments = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run"
    process = subprocess.Popen(
        [
            executable,
            *arguments.split(),
            f"--user-data-dir={profile}",
            f"--window-size={size[0]},{size[1]}",
            "--remote-debugging-port=0",
            "about:blank",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            if found := re.search(r"ws://([^/]+)/", line):
                break
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{found[1]}/json") as response:
                (tab,) = [target for target in await response.json() if target["type"] == "page"]
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
