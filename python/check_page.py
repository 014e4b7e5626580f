"""Uses the page of a running harmonic serve in headless Chromium, and takes pictures of it.

    pip install websockets
    harmonic serve --model my-model --port 8080 &
    python python/check_page.py http://127.0.0.1:8080 pictures
"""

import asyncio
import base64
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

import websockets


class Browser:
    def __init__(self, socket):
        self.socket, self.number, self.problems = socket, 0, []

    async def call(self, method, **parameters):
        self.number += 1
        await self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await self.socket.recv())
            if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.problems.append(message["params"])
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]

    async def run(self, expression):
        result = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression):
        for _ in range(300):
            if await self.run(expression):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"never came true: {expression}; {await self.run('document.body.innerText')}; {self.problems}")

    async def picture(self, path, width, height, dark):
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=scheme)
        shot = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))
        wide = await self.run("document.documentElement.scrollWidth")
        assert wide <= width, f"{path}: {wide} pixels wide"


async def check(address, folder, port):
    for _ in range(100):
        try:
            pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
            break
        except OSError:
            await asyncio.sleep(0.1)
    target = next(page for page in pages if page["type"] == "page")
    async with websockets.connect(target["webSocketDebuggerUrl"], max_size=1 << 26) as socket:
        browser = Browser(socket)
        for domain in ("Page", "Runtime", "Log"):
            await browser.call(domain + ".enable")
        await browser.call("Page.navigate", url=address)
        await browser.until("document.readyState == 'complete' && document.getElementById('model').textContent != ''")
        # Markup in a text is text.
        text = "// <img src=x onerror=document.title=1> Caf\\u00e9 \\ud83d\\ude42\\n"
        await browser.run(f"document.getElementById('prompt').value = '{text}'; document.getElementById('form').requestSubmit(); 1")
        await browser.until("!document.getElementById('go').disabled && document.querySelectorAll('#text .t:not(.p)').length > 20")
        assert await browser.run("document.querySelectorAll('#text img').length") == 0
        assert await browser.run("document.getElementById('text').textContent.includes('<img') && document.getElementById('text').textContent.includes('Caf\\u00e9 \\ud83d\\ude42')")
        assert await browser.run("[...document.querySelectorAll('#text .t')].filter(t => t.style.getPropertyValue('--surprise') > 0).length > 20")
        await browser.run("document.querySelectorAll('#text .t')[60].dispatchEvent(new MouseEvent('mouseover', {bubbles: true})); 1")
        assert await browser.run("document.querySelectorAll('#tip tr').length") >= 5
        # What the levels did: as many cells as there are, not all alike.
        colours = """(() => { const c = document.getElementById('levels'); if (c.hidden) return 0;
          const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
          return new Set(Array.from({length: d.length / 4}, (_, i) => d.slice(4 * i, 4 * i + 4).join())).size; })()"""
        assert await browser.run(colours) > 20
        await browser.picture(folder / "light.png", 1200, 800, False)
        await browser.picture(folder / "dark.png", 1200, 800, True)
        await browser.picture(folder / "phone.png", 390, 844, False)
        # A fork by keyboard, gone on with by another seed.
        count = await browser.run("document.getElementById('text').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true})); 61")
        await browser.until(f"document.querySelectorAll('.node').length == 2 && document.querySelectorAll('#text .t').length == {count}")
        await browser.run("document.getElementById('seed').value = 2; document.getElementById('form').requestSubmit(); 1")
        await browser.until(f"!document.getElementById('go').disabled && document.querySelectorAll('#text .t').length > {count}")
        # What is stopped stays, and is gone on with.
        await browser.run("document.getElementById('max').value = 4096; document.getElementById('form').requestSubmit(); 1")
        await browser.until(f"document.querySelectorAll('#text .t').length > {count} + 150")
        await browser.run("document.getElementById('stop').click(); 1")
        await browser.until("!document.getElementById('go').disabled")
        shown = await browser.run("document.querySelectorAll('#text .t').length")
        kept = await browser.run("fetch('/v1/sessions/' + document.querySelector('.node[aria-current=true]').title).then(a => a.json()).then(s => s.tokens)")
        assert kept == shown + 1, (kept, shown)
        await browser.picture(folder / "tree.png", 1200, 800, False)
        # Another one from its end reads nothing again.
        read = "fetch('/metrics').then(a => a.text()).then(t => +/^harmonic_prompt_tokens_total (\\S+)/m.exec(t)[1])"
        before = await browser.run(read)
        await browser.run("document.querySelector('#text .t:last-child').click(); 1")
        await browser.until(f"document.querySelectorAll('.node').length == 3 && document.querySelectorAll('#text .t').length == {shown}")
        assert await browser.run(read) == before
        for left in (2, 1):
            await browser.run("document.getElementById('delete').click(); 1")
            await browser.until(f"document.querySelectorAll('.node').length == {left}")
        assert await browser.run("document.getElementById('said').textContent") == ""
        # While the text that was stopped ends, its session is still at work: 409, and asked again.
        problems = [one for one in browser.problems if "409" not in one.get("entry", {}).get("text", "")]
        assert not problems, problems
    print("the page works")


def main():
    address, folder, port = sys.argv[1], pathlib.Path(sys.argv[2]), 9333
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        chromium = subprocess.Popen(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--remote-debugging-port={port}",
             f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            asyncio.run(check(address, folder, port))
        finally:
            chromium.terminate()
            chromium.wait()


if __name__ == "__main__":
    main()
