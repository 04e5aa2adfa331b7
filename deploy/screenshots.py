"""Pictures of the pages while the demo runs: `make screenshots`.

`docs/img/live.png` is the live page on a desktop, in light colours. `build/screenshots` holds each page on phone and desktop, light
and dark, to be looked at after a change.
"""

import asyncio
import io
import itertools
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.async_api import Browser, Page, async_playwright, expect

ROOT: Final = Path(__file__).parents[1]
PICTURE: Final = ROOT / "docs" / "img" / "live.png"
FOLDER: Final = ROOT / "build" / "screenshots"
SIZES: Final = {"desktop": (1280, 860), "phone": (390, 844)}
SCHEMES: Final = ("light", "dark")
COLOURS: Final = 96  # of the picture in the documentation: sharp text in a third of the bytes
START_S: Final = 90
MODEL_MS: Final = 600_000  # a model within a minute on an idle machine
ENOUGH: Final = re.compile(r"same ([3-9]\d\d|[\d,]{5,}) purchases")  # for shares that do not jump
MOVES_MS: Final = 6_000  # until places, ways and lists have filled the page
DEMO_ARGUMENTS: Final = ("--seconds", "2400", "--seed", "1")
BROWSER_ARGUMENTS: Final = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def main() -> None:
    """Starts the demo, takes the pictures, and ends it."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no Chromium: `make setup-kafka` installs it")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(suffix=".log") as output:
        command = [sys.executable, "-m", "stream.cli.main", "demo", *DEMO_ARGUMENTS]
        demo = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)  # noqa: S603  (our own command)
        try:
            asyncio.run(_take(_address(Path(output.name), demo), chromium))
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait(60)


def _address(output: Path, demo: "subprocess.Popen[bytes]") -> str:
    """The address that the demo prints."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and demo.poll() is None:
        found = re.search(r"watch it live:\s+(\S+)/", output.read_text(errors="replace"))
        if found is not None:
            return found[1]
        time.sleep(0.2)
    sys.exit(f"the demo did not start:\n{output.read_text(errors='replace')}")


async def _take(address: str, chromium: str) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=BROWSER_ARGUMENTS)
        for size, scheme in itertools.product(SIZES, SCHEMES):
            live = await _open(browser, f"{address}/", size, scheme)
            await expect(live.locator("#model")).not_to_contain_text("popular", timeout=MODEL_MS)
            await expect(live.locator("#quality-note")).to_have_text(ENOUGH, timeout=MODEL_MS)
            await expect(live.locator("#steps .effect").nth(1)).to_be_visible(timeout=MODEL_MS)
            await live.wait_for_timeout(MOVES_MS)
            picture = await live.screenshot(path=FOLDER / f"live-{size}-{scheme}.png", full_page=True)
            if (size, scheme) == ("desktop", "light"):
                _write(picture)
            shop = await _open(browser, f"{address}/shop", size, scheme)
            await shop.wait_for_timeout(MOVES_MS)
            await shop.screenshot(path=FOLDER / f"shop-{size}-{scheme}.png", full_page=True)
            agent = await _open(browser, f"{address}/agent", size, scheme)
            await agent.locator("#examples button").first.click()
            await agent.wait_for_timeout(MOVES_MS)
            await agent.screenshot(path=FOLDER / f"agent-{size}-{scheme}.png", full_page=True)
            for page in (live, shop, agent):
                await page.context.close()
        await browser.close()


async def _open(browser: Browser, url: str, size: str, scheme: str) -> Page:
    width, height = SIZES[size]
    context = await browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, locale="en-GB")  # type: ignore[arg-type]
    page = await context.new_page()
    await page.goto(url)
    return page


def _write(picture: bytes) -> None:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    content = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(content, "png", optimize=True)
    PICTURE.write_bytes(content.getvalue())
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1_000:.0f} kB")


if __name__ == "__main__":
    main()
