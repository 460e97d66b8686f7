"""The cloud in a real JupyterLab: a box chooses patches, Python has them, and they light up in the images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import nbformat
import numpy as np
import pytest
from playwright.sync_api import Browser
from real_jupyter import Jupyter, complaints, notebook
from test_explorer_browser import Bench
from watched_page import pixels, shot

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CELLS = (
    'import spectral_toolkit as st\nmodel = st.load_model("scenes")\nscenes = st.scenes.sample(4, seed=0)',
    'explorer = st.Explorer(model, scenes.pixels, labels=scenes, scope="dataset", progress=False, state={"compare": '
    'False, "kernel": "shifted_cosine", "affinity": "vv", "view": "cloud"})\nexplorer',
    "import json\nchosen = explorer.selection\nprint(json.dumps({'image': "
    "chosen.image.tolist(), 'place': chosen[['row', 'column']].values.tolist(), 'x': chosen.eigenvector_1.tolist(), "
    "'y': chosen.eigenvector_2.tolist()}))",
)
DRAG = """([from, to]) => {
    let one = document.elementFromPoint(...from);
    for (let inner; (inner = one.shadowRoot?.elementFromPoint(...from)) && inner !== one; ) one = inner;
    const send = (type, [clientX, clientY], buttons) => one.dispatchEvent(new PointerEvent(type, {bubbles: true,
        composed: true, clientX, clientY, pointerId: 1, pointerType: "mouse", isPrimary: true, buttons}));
    const part = (share) => from.map((start, side) => start + share * (to[side] - start));
    send("pointerdown", from, 1);
    for (const share of [0.1, 0.5, 1]) send("pointermove", part(share), 1);
    send("pointerup", to, 0);
}"""
"""A drag within one turn of the page: on a busy machine a mouse that rests for 250 ms is a press to Bokeh."""
TAG = """() => { for (const doc of Bokeh.documents) for (const root of doc.roots()) for (const one of root.references())
    if (one.name === "%s" && one.type === "Figure") return %s }"""


@pytest.fixture
def bench(chromium: Browser, jupyter: Jupyter) -> Iterator[Bench]:
    nbformat.write(notebook(*CELLS), jupyter.folder / "cloud.ipynb")
    context = chromium.new_context(viewport={"width": 1400, "height": 1300})
    made = Bench(context.new_page(), jupyter.folder)
    made.open(jupyter.address("cloud.ipynb"), cells=2)
    made.page.keyboard.press("Control+b")
    yield made
    context.close()


def test_a_box_chooses_patches(bench: Bench) -> None:
    page = bench.page
    page.wait_for_timeout(1000)
    cloud = bench.explorer.locator(".bk-Figure:visible").first
    shot(cloud)  # of what stands there next, if it is just drawn anew
    box = cloud.bounding_box()
    assert box is not None
    frame = page.evaluate(
        TAG
        % (
            "cloud",
            "one.inner_width && [one.inner_width, one.inner_height, one.x_range.start, "
            "one.x_range.end, one.y_range.start, one.y_range.end]",
        )
    )
    assert frame, "the cloud has been drawn"
    points = page.evaluate(TAG % ("cloud", "one.renderers[0].data_source.data.x.length"))
    assert points == 4 * 144
    # The right half of the cloud: those with a high first eigenvector.
    left, right = box["x"] + box["width"] - 0.45 * frame[0], box["x"] + box["width"] - 8
    top, bottom = box["y"] + 50, box["y"] + box["height"] - 60
    page.mouse.move(left, top)
    page.evaluate(DRAG, [[left, top], [right, bottom]])
    words = bench.explorer.get_by_text(re.compile(r"[\d,]+ patch(es)? chosen"))
    words.first.wait_for()
    n = int(re.sub(r"\D", "", words.first.inner_text().split("patch")[0]))
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").nth(2).click()
    page.keyboard.press("Shift+Enter")
    printed = page.locator(".jp-OutputArea-output").filter(has_text='"place"')
    printed.first.wait_for()
    chosen = json.loads(printed.first.inner_text())
    assert len(chosen["image"]) == n > 10
    assert min(chosen["x"]) > np.mean(frame[2:4]) - 0.1 * (frame[3] - frame[2])
    # What is lit in the page: those patches of the first image of the strip keep its colours, the others are darker.
    bench.wait(lambda: page.evaluate(TAG % ("chosen", "one.inner_width")) is not None, "The lit images")
    lit = bench.explorer.locator(".st-choosing .bk-Figure:visible").first
    names, counts = np.unique(chosen["image"], return_counts=True)
    first = names[np.argsort(-counts, kind="stable")[0]]
    own = {tuple(one) for one, name in zip(chosen["place"], chosen["image"], strict=True) if name == first}
    import spectral_toolkit as st

    scenes = st.scenes.sample(4, seed=0)
    picture = scenes.pixels.sel(image=first).values
    size = picture.shape[0] // 12
    page.mouse.move(2, 2)
    page.wait_for_timeout(500)
    seen = pixels(lit)
    width, head = (seen.shape[1] - 10 * seen.shape[1] / 560) / 2, 20 * seen.shape[1] / 560
    errors: dict[bool, list[float]] = {True: [], False: []}
    for row in range(12):
        for column in range(12):
            y, x = int(head + (row + 0.5) / 12 * width), int((column + 0.5) / 12 * width)
            mean = picture[row * size : (row + 1) * size, column * size : (column + 1) * size].mean(axis=(0, 1))
            shown = seen[y - 4 : y + 5, x - 4 : x + 5].mean(axis=(0, 1))
            errors[(row, column) in own].append(float(np.abs(shown - mean).mean()))
    assert np.mean(errors[True]) < 25 < np.mean(errors[False])
    # The crop under the cursor comes from the page itself.
    page.mouse.move(left + 30, (top + bottom) / 2)
    assert complaints(bench.messages) == []
