"""Take the screenshots of the documentation from what ``make demo`` wrote: ``make screenshots``.

Needs a Chromium on the PATH. Writes docs/images/report.png, small enough for a README (under 400 kB).
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageChops, ImageOps
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 1280
N_PICTURES = 2
LARGEST = 400_000  # bytes
SETTLING = 1000  # milliseconds a page of ours may take to draw itself once it is loaded


@contextmanager
def offline_page() -> Iterator[Page]:
    """A page in a headless Chromium without a network."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("No Chromium is installed: get one with 'apt-get install chromium'.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser.new_context(viewport={"width": WIDTH, "height": 1000}, offline=True).new_page()
        browser.close()


def photograph(html: str, margin: int = 10) -> Image.Image:
    """A page that needs nothing but itself, as far as there is anything on its white."""
    with offline_page() as page:
        page.set_content(html, wait_until="load")
        page.wait_for_timeout(SETTLING)
        whole = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    box = ImageChops.difference(whole, Image.new("RGB", whole.size, "white")).getbbox()
    if box is None:
        raise SystemExit("The page stayed white: see what Chromium says of it.")
    return ImageOps.expand(whole.crop(box), margin, "white")


def screenshot(page_file: Path) -> Image.Image:
    """The controls and the first images of a report, side by side."""
    with offline_page() as page:
        page.goto(page_file.resolve().as_uri())
        page.wait_for_load_state("load")
        cards = page.locator("#pictures article.card")
        shown = min(N_PICTURES, cards.count())
        pictures = [page.locator("#controls"), *(cards.nth(index).locator(".panels") for index in range(shown))]
        return stacked([Image.open(io.BytesIO(part.screenshot())).convert("RGB") for part in pictures])


def stacked(parts: list[Image.Image], gap: int = 20) -> Image.Image:
    """Images below each other, centred, on the background of the first."""
    width = max(part.width for part in parts) + 2 * gap
    height = sum(part.height for part in parts) + gap * (len(parts) + 1)
    whole = Image.new("RGB", (width, height), parts[0].getpixel((1, 1)))  # pyright: ignore[reportArgumentType]
    top = gap
    for part in parts:
        whole.paste(part, ((width - part.width) // 2, top))
        top += part.height + gap
    return whole


def save_small(picture: Image.Image, path: Path) -> None:
    """As PNG, with as many colours as fit into the size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)
    for colours in (256, 128, 64):
        if path.stat().st_size < LARGEST:
            return
        # k-means after the median cut: by itself that forgets the few pixels of the controls' blue.
        picture.quantize(colours, kmeans=4, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    if path.stat().st_size >= LARGEST:
        raise SystemExit(f"{path} is {path.stat().st_size:,} bytes: make the image smaller.")


if __name__ == "__main__":
    report = ROOT / "out" / "report.html"
    if not report.is_file():
        raise SystemExit("out/report.html is missing: run 'make demo' first.")
    target = ROOT / "docs" / "images" / "report.png"
    save_small(screenshot(report), target)
    print(f"-> {target.relative_to(ROOT)} ({target.stat().st_size:,} bytes)")
