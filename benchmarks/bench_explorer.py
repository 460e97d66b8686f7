"""The explorer in a real browser: from the move of a weight to the new picture, beside the solve alone.

1,024 patches and 12 layers; one weight changes 20 times. Times run from the state being set in the kernel to the
first frame in which the page's canvas holds other pixels; kernel and page share one clock.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOKENS, LAYERS, REPEATS = 1024, 12, 20

SETUP = f"""
import json, statistics, time
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel
import spectral_toolkit as st
torch.manual_seed(0)
config = DINOv3ViTConfig(hidden_size=256, intermediate_size=512, num_hidden_layers={LAYERS}, num_attention_heads=8,
                         patch_size=8, image_size=256)
model = st.load_model(DINOv3ViTModel(config), device="cpu")
pictures = st.scenes.sample(1, seed=0, size=256).pixels
from spectral_toolkit._views.widget import State
explorer = st.Explorer(model, pictures, size=(256, 256), progress=False, state=State(compare=False, affinity="vv"))
explorer
"""

FIRST = """
import json, time
import spectral_toolkit as st
model = st.load_model("scenes")
pictures = st.scenes.sample(4, seed=0, size=128).pixels
from spectral_toolkit._views.widget import Explorer
began = time.time()
explorer = Explorer(model, pictures, size=(128, 128), progress=False)
open("first.json", "w").write(json.dumps(began))
explorer
"""

RUN = f"""
import asyncio
layer = explorer._session.facts.layers[3]
graph = explorer._session.graph(__import__("spectral_toolkit._explorer.session", fromlist=["x"]).questions(
    explorer.state, explorer._session.facts)[0])
eig = st.solve(graph, 8)
alone = []
for step in range({REPEATS}):
    began = time.perf_counter()
    eig = st.solve(graph.reweight({{layer: 0.3 + 0.05 * step}}), 8, start=eig)
    alone.append(time.perf_counter() - began)
whole = []
async def measure():
    open("ready", "w").close()
    await asyncio.sleep(3)  # the page scrolls back to the picture, which running this cell has moved out of sight
    for step in range({REPEATS}):
        began = time.time()
        explorer.set(weights={{**explorer.state.weights, layer: 0.31 + 0.05 * step}})
        while explorer.is_busy:
            await asyncio.sleep(0.001)
        whole.append((began, time.time()))
        await asyncio.sleep(0.7)
    open("times.json", "w").write(json.dumps([alone, whole]))
task = asyncio.ensure_future(measure())
"""

WATCH = """() => {
  const inside = node => [...node.querySelectorAll("*")].flatMap(
    one => [...(one.tagName === "CANVAS" ? [one] : []), ...(one.shadowRoot ? inside(one.shadowRoot) : [])]);
  const canvases = inside(document.querySelector(".st-explorer")).filter(one => one.width && one.offsetParent !== null);
  const look = () => canvases.map(one => {
    const [x, y] = [one.width >> 2, one.height >> 2];
    return one.getContext("2d").getImageData(x, y, one.width >> 1, one.height >> 1).data.join();
  }).join();
  let last = look();
  window.frames_ = [];
  const watch = () => {
    const now = look();
    if (now !== last) window.frames_.push(Date.now() / 1000);
    last = now;
    setTimeout(() => requestAnimationFrame(watch), 10);
  };
  requestAnimationFrame(watch);
  return canvases.length;
}"""
"""Notes when what is drawn in the middle of the canvases changes: the pixels themselves, not messages about them."""


def bench_first_view() -> dict[str, Any]:
    """From the call to the first picture on the page."""
    with opened(FIRST, "0") as (_, folder):
        seen = time.time()
        began = json.loads((folder / "first.json").read_text())
    return {
        "name": "explorer: call to first view, 4 pictures of 256 tokens, 6 layers",
        "ours": seen - began,
        "theirs": 5.0,
        "target": ">= 1",
        "note": "theirs: the 5 s allowed",
    }


def bench_repaint() -> dict[str, Any]:
    """From a weight that moved to the picture painted anew."""
    with opened(SETUP, RUN) as (bench, folder):
        bench.page.keyboard.press("Shift+Enter")
        bench.wait((folder / "ready").exists, "The start of the measurement")
        bench.explorer.locator(".bk-Figure:visible").first.scroll_into_view_if_needed()
        bench.page.wait_for_timeout(500)
        bench.page.evaluate(WATCH)
        bench.wait((folder / "times.json").exists, "The measurement")
        bench.page.wait_for_timeout(500)
        alone, whole = json.loads((folder / "times.json").read_text())
        frames = bench.page.evaluate("window.frames_")
    repaint = [min(later) - start for start, _ in whole if (later := [frame for frame in frames if frame > start])]
    pure, live = statistics.median(alone), statistics.median(repaint)
    kernel = statistics.median(end - start for start, end in whole)
    return {
        "name": f"explorer: weight moved to picture repainted, {TOKENS} tokens, {LAYERS} layers (median of {REPEATS})",
        "ours": live,
        "theirs": min(0.3, pure + 0.15),
        "target": ">= 1",
        "note": f"theirs: what is allowed, 300 ms and at most 150 ms more than the solve alone, {pure * 1000:.0f} ms; "
        f"the kernel has its answer after {kernel * 1000:.0f} ms",
    }


@contextmanager
def opened(*cells: str) -> Iterator[tuple[Any, Path]]:
    """A notebook in a browser of its own, its first cell run and the explorer seen; and the notebook's folder.

    Each has a Jupyter of its own too: a second page of one and the same waits for the first to give up its workspace.
    """
    import nbformat
    from playwright.sync_api import sync_playwright

    sys.path[:0] = [str(ROOT / "tests" / "browser"), str(ROOT / "tests")]
    from real_jupyter import address, notebook, serving  # pyright: ignore[reportMissingImports]
    from test_explorer_browser import Bench, chromium_or_exit, launch  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        nbformat.write(notebook(*cells), folder / "measured.ipynb")
        with serving(folder) as served:
            browser = launch(playwright, chromium_or_exit())
            bench = Bench(browser.new_context(viewport={"width": 1280, "height": 1300}).new_page(), folder)
            bench.open(address(served, "measured.ipynb"), cells=1)
            yield bench, folder
            browser.close()
