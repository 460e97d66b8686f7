"""Take the pictures of the documentation from what ``make demo`` wrote: ``make screenshots``.

Needs a Chromium on the PATH. Writes docs/images/report.png, small enough for a README (under 400 kB).
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 1280, 900
LARGEST = 400_000  # bytes


def screenshot(page_file: Path, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """The top of a page in a headless Chromium without a network."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("No Chromium is installed: get one with 'apt-get install chromium'.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_context(viewport={"width": width, "height": height}, offline=True).new_page()
        page.goto(page_file.resolve().as_uri())
        page.wait_for_load_state("load")
        picture = Image.open(io.BytesIO(page.screenshot()))
        picture.load()
        browser.close()
    return picture.convert("RGB")


def save_small(picture: Image.Image, path: Path) -> None:
    """As PNG, with as many colours as fit into the size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)
    for colours in (256, 128, 64):
        if path.stat().st_size < LARGEST:
            return
        picture.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size >= LARGEST:
        raise SystemExit(f"{path} is {path.stat().st_size:,} bytes: make the picture smaller.")


if __name__ == "__main__":
    report = ROOT / "out" / "report.html"
    if not report.is_file():
        raise SystemExit("out/report.html is missing: run 'make demo' first.")
    target = ROOT / "docs" / "images" / "report.png"
    save_small(screenshot(report), target)
    print(f"-> {target.relative_to(ROOT)} ({target.stat().st_size:,} bytes)")
