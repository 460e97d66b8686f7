"""The explorer in a real browser: from the move of a weight to the new picture, beside the solve alone.

1,024 patches and 12 layers; one weight changes 20 times. Times run from the state being set in the kernel to the
page's next frame after the data arrived; kernel and page share one clock.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
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
from spectral_toolkit.views.explorer import State
explorer = st.Explorer(model, pictures, size=(256, 256), progress=False, state=State(compare=False, affinity="vv"))
explorer
"""

FIRST = """
import json, time
import spectral_toolkit as st
model = st.load_model("scenes")
pictures = st.scenes.sample(4, seed=0, size=128).pixels
from spectral_toolkit.views.explorer import Explorer
began = time.time()
explorer = Explorer(model, pictures, size=(128, 128), progress=False)
open("first.json", "w").write(json.dumps(began))
explorer
"""

RUN = f"""
import asyncio
layer = explorer._session.facts.layers[3]
graph = explorer._session.graph(__import__("spectral_toolkit.views.explorer.session", fromlist=["x"]).questions(
    explorer.state, explorer._session.facts)[0])
eig = st.solve(graph, 8)
alone = []
for step in range({REPEATS}):
    began = time.perf_counter()
    eig = st.solve(graph.reweight({{layer: 0.3 + 0.05 * step}}), 8, start=eig)
    alone.append(time.perf_counter() - began)
whole = []
async def measure():
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
  window.frames_ = [];
  for (const doc of Bokeh.documents) for (const root of doc.roots()) for (const model of root.references())
    if (model.type === "ColumnDataSource" && (model.data.image || (model.data.get && model.data.get("image"))))
      model.properties.data.change.connect(() => {
        requestAnimationFrame(() => requestAnimationFrame(() => window.frames_.push(Date.now() / 1000)));
      });
}"""


def bench_explorer() -> Iterator[dict[str, Any]]:
    """First view, and a weight moved to the picture repainted."""
    import nbformat
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(ROOT / "tests" / "browser"))
    sys.path.insert(0, str(ROOT / "tests"))
    from real_jupyter import address, notebook, serving  # pyright: ignore[reportMissingImports]
    from test_explorer_browser import Bench, chromium_or_exit, launch  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        nbformat.write(notebook(SETUP, RUN), folder / "live.ipynb")
        nbformat.write(notebook(FIRST, "0"), folder / "first.ipynb")
        with serving(folder) as served:
            browser = launch(playwright, chromium_or_exit())
            page = browser.new_context(viewport={"width": 1280, "height": 1300}).new_page()
            bench = Bench(page, folder)
            bench.open(address(served, "first.ipynb"), cells=1)
            seen = time.time()
            began = json.loads((folder / "first.json").read_text())
            yield {
                "name": "explorer: call to first view, 4 pictures of 256 tokens, 6 layers",
                "ours": seen - began,
                "theirs": 5.0,
                "target": ">= 1",
                "note": "theirs: the 5 s allowed",
            }
            page = browser.new_context(viewport={"width": 1280, "height": 1300}).new_page()
            bench = Bench(page, folder)
            bench.open(address(served, "live.ipynb"), cells=1)
            page.evaluate(WATCH)
            page.keyboard.press("Shift+Enter")
            bench.wait((folder / "times.json").exists, "The measurement")
            page.wait_for_timeout(500)
            alone, whole = json.loads((folder / "times.json").read_text())
            frames = page.evaluate("window.frames_")
            browser.close()
    repaint = [min(f for f in frames if f > start) - start for start, _ in whole if any(f > start for f in frames)]
    pure, live = statistics.median(alone), statistics.median(repaint)
    yield {
        "name": f"explorer: weight moved to picture repainted, {TOKENS} tokens, {LAYERS} layers (median of {REPEATS})",
        "ours": live,
        "theirs": 0.3,
        "target": ">= 1",
        "note": f"theirs: the 300 ms allowed; the solve alone takes {pure * 1000:.0f} ms, so the rest is "
        f"{(live - pure) * 1000:.0f} ms (150 allowed)",
    }
