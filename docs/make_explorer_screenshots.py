"""Take the screenshots of the explorer for docs/: ``python docs/make_explorer_screenshots.py``.

Runs a real JupyterLab with the helpers of the browser test, needs a Chromium on the PATH, and writes
docs/images/explorer.png (the first view), explorer-patch.png (a tapped patch), explorer-cut.png (cut in two),
explorer-grid.png (all eigenvectors), explorer-heads.png (every layer and head), explorer-two.png (two models),
explorer-dataset.png (all images as one, in the dark theme) and explorer-cloud.png (a cloud with chosen patches, in the
dark theme).
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import nbformat
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs"), str(ROOT / "tests"), str(ROOT / "tests" / "browser")]


def main() -> None:
    """Open the explorer as its test does, and take it in three states."""
    from make_screenshots import save_small
    from real_jupyter import launch, notebook, serving  # pyright: ignore[reportMissingImports]
    from test_cloud_browser import DRAG  # pyright: ignore[reportMissingImports]
    from test_explorer_browser import CELLS, Bench, chromium_or_exit  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        nbformat.write(notebook(*CELLS), folder / "explorer.ipynb")
        with serving(folder) as served:
            browser = launch(playwright, chromium_or_exit())
            page = browser.new_context(viewport={"width": 1280, "height": 1400}).new_page()
            bench = Bench(page, folder)
            bench.open(served.address("explorer.ipynb"))
            page.keyboard.press("Control+b")

            def take(target: str) -> None:
                page.mouse.move(2, 2)
                before, shown = b"", bench.explorer.screenshot()
                while shown != before:  # labels may come after the pictures that they belong to
                    page.wait_for_timeout(2500)
                    before, shown = shown, bench.explorer.screenshot()
                shot = Image.open(io.BytesIO(shown)).convert("RGB")
                path = ROOT / "docs" / "images" / target
                save_small(shot, path)
                print(f"-> {path.relative_to(ROOT)} ({path.stat().st_size:,} bytes)")

            take("explorer.png")
            bench.tap(5, 4)
            bench.explorer.get_by_text("affinities of the patch in row 5").first.wait_for(timeout=120_000)
            take("explorer-patch.png")
            bench.button("Forget patch").click()
            bench.explorer.get_by_label("Cut in two").check()
            bench.button("Lowest cut").click()
            bench.explorer.get_by_text("of the patches, normalised cut").wait_for(timeout=120_000)
            take("explorer-cut.png")
            bench.explorer.get_by_label("Cut in two").uncheck()
            bench.button("All").click()
            take("explorer-grid.png")
            bench.button("Heads").click()
            bench.explorer.get_by_text("Every layer and head").first.wait_for(timeout=240_000)
            take("explorer-heads.png")
            bench.button("Eigenvector").click()
            bench.explorer.get_by_label("Compare with a second setting").uncheck()
            bench.button("All as one").click()
            bench.explorer.get_by_text("QK · knn").first.wait_for(timeout=120_000)
            bench.tap(5, 4)
            bench.explorer.get_by_text("images that it is most connected to").first.wait_for(timeout=120_000)
            page.evaluate(
                "() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
            )
            take("explorer-dataset.png")
            bench.button("Forget patch").click()
            bench.button("Cloud").click()
            bench.explorer.locator("select").filter(has_text="own pixels").first.select_option("segment")
            page.wait_for_timeout(5000)
            frame = bench.explorer.locator(".bk-Figure:visible").first.bounding_box()
            assert frame is not None
            corners = [
                (frame["x"] + part * frame["width"], frame["y"] + other * frame["height"])
                for part, other in ((0.62, 0.12), (0.97, 0.85))
            ]
            page.mouse.move(*corners[0])
            page.evaluate(DRAG, corners)
            bench.explorer.get_by_text("chosen in").first.wait_for(timeout=120_000)
            take("explorer-cloud.png")
            two = 'two = st.Explorer(["scenes", "scenes-absolute"], scenes, progress=False)\ntwo'
            nbformat.write(notebook(CELLS[0], two), folder / "two.ipynb")
            bench.open(served.address("two.ipynb"))
            bench.explorer.get_by_text("The subspaces of the first").wait_for(timeout=240_000)
            take("explorer-two.png")
            browser.close()


if __name__ == "__main__":
    main()
