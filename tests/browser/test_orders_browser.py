"""Explorers, overlays, heat maps and other figures in one page of JupyterLab, in any order: all of them are drawn."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator

import nbformat
import pytest
from PIL import Image
from playwright.sync_api import Browser, Error, Locator
from real_jupyter import Jupyter, complaints, notebook
from test_explorer_browser import Bench

pytestmark = [pytest.mark.browser, pytest.mark.slow]

START = (
    "import holoviews as hv\nimport xarray as xr\nimport spectral_toolkit as st\n"
    "acts = st.capture('scenes', st.scenes.sample(1, seed=0), progress=False)\n"
    "eig = st.solve(st.affinity(acts, 'vv'), 3)"
)
EXPLORER = "explorer = st.Explorer(acts)\nexplorer"
OVERLAY = "st.overlay(acts, eig)"
HEAT_MAP = (
    "scores = xr.Dataset({'where': (('kind', 'layer'), [[0.9, 0.8]])}, {'kind': ['qk'], 'layer': ['a', 'joint']})\n"
    "st.heat_map(scores, names=('where',))"
)
OWN = "hv.Curve([1, 2, 3])"
LIVE = "hv.DynamicMap(lambda n: hv.Curve(range(n)), kdims=hv.Dimension('n', values=[3, 9]))"
BARE = (
    "from bokeh.io import output_notebook, show\nfrom bokeh.plotting import figure\n"
    "from bokeh.resources import Resources\noutput_notebook(Resources('inline'), hide_banner=True)\n"
    "plot = figure(width=200, height=200)\nplot.line([1, 2], [1, 2])\nshow(plot)"
)
"""BokehJS without Panel's models, as other libraries leave it in a page."""
LAID_OUT = """(cell) => {
    const figures = (root) => [...root.querySelectorAll("*")].flatMap((one) =>
        one.shadowRoot ? [...(one.matches(".bk-Figure") ? [one] : []), ...figures(one.shadowRoot)] : []);
    const boxes = figures(cell).map((one) => one.getBoundingClientRect()).filter((one) => one.width > 0);
    const place = cell.querySelector("[data-root-id]");
    const models = [...(place && window.Bokeh?.index?.[place.dataset.rootId]?.model.references() || [])];
    // Tagged by this alone, a figure keeps its shape.
    const kept = models.filter((one) => one.tags?.length === 1 && one.tags[0] === "st-fits");
    const room = place?.closest(".jp-OutputArea-output").getBoundingClientRect();
    return {lefts: boxes.map((one) => Math.round(one.left)), over: boxes.map((one) => one.right - room.right),
        shapes: kept.map((one) => one.inner_width / one.inner_height)};
}"""
FIGURES = (EXPLORER, OVERLAY, HEAT_MAP, OWN, LIVE, BARE)


class Lab(Bench):
    """One page of JupyterLab, in which notebooks are opened beside each other."""

    def load(self, jupyter: Jupyter) -> None:
        """Load the page anew, without a notebook in it."""
        self.page.goto(f"{jupyter.base}/lab?token={jupyter.token}&reset")
        self.page.wait_for_selector(".jp-Launcher")
        self.messages.clear()

    def show(self, name: str, *cells: str) -> None:
        """Make a notebook, open it in this page, and run its cells one after the other."""
        nbformat.write(notebook(*cells), self.folder / name)
        self.command("docmanager:open", {"path": name})
        self.wait(
            lambda: self.in_front("one.sessionContext?.session?.kernel?.connectionStatus") == "connected", "A kernel"
        )
        for place in range(len(cells)):
            self.run(place)

    def run(self, place: int) -> None:
        """Run one cell of the notebook in front, and see that what it shows is drawn."""
        self.in_front(f"one.content.activeCellIndex = {place}")
        self.command("notebook:run-cell")
        code = self.in_front(f"one.content.widgets[{place}].model.sharedModel.source")
        cell = self.page.locator(".jp-NotebookPanel:visible .jp-CodeCell").nth(place)
        self.wait(lambda: cell.locator(".jp-InputPrompt").inner_text().strip("[]: ").isdigit(), f"The end of {code!r}")
        if code in FIGURES:
            self.wait(lambda: _is_drawn(cell.locator(".bk-Figure:visible")), f"The figure of {code!r}")

    def laid_out(self, place: int) -> dict[str, list[float]]:
        """Where the figures of a cell are in it, asked for at once: nothing is waited for, and nothing can move."""
        return self.page.evaluate(f"() => ({LAID_OUT})(jupyterapp.shell.currentWidget.content.widgets[{place}].node)")

    def command(self, name: str, arguments: dict[str, str] | None = None) -> None:
        """What a menu of JupyterLab would do; what that gives, a whole notebook at times, stays in the page."""
        code = "async ([name, given]) => { await jupyterapp.commands.execute(name, given); }"
        self.page.evaluate(code, [name, arguments or {}])

    def in_front(self, code: str) -> object:
        """What JavaScript says of the notebook in front, which it knows as ``one``."""
        return self.page.evaluate(f"() => {{ const one = jupyterapp.shell.currentWidget; return {code}; }}")


def _is_drawn(figures: Locator) -> bool:
    """Whether there is a figure that is not blank."""
    try:
        shot = figures.first.screenshot() if figures.count() else b""
    except Error:  # it is just being drawn anew
        return False
    colours = Image.open(io.BytesIO(shot)).convert("RGB").getcolors(1 << 20) if shot else []
    return colours is None or len(colours) > 20


@pytest.fixture(scope="module")
def lab(browser: Browser, jupyter: Jupyter) -> Iterator[Callable[[], Lab]]:
    """Gives a page that was loaded anew."""
    context = browser.new_context(viewport={"width": 1280, "height": 1500})
    made = Lab(context.new_page(), jupyter.folder)

    def fresh() -> Lab:
        made.load(jupyter)
        return made

    yield fresh
    local = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")
    assert [url for url in made.requests if not url.startswith(local)] == []
    context.close()


def test_after_an_explorer_everything_is_drawn_in_every_notebook_of_the_page(lab: Callable[[], Lab]) -> None:
    page = lab()
    page.show("first.ipynb", START, EXPLORER, OVERLAY, HEAT_MAP, OWN, "st.extension()", LIVE, "explorer.close()")
    page.run(2)
    page.show("second.ipynb", START, EXPLORER, OVERLAY)
    page.run(1)
    page.run(2)
    assert complaints(page.messages) == []


def test_a_restarted_kernel_draws_again_in_the_same_page(lab: Callable[[], Lab]) -> None:
    page = lab()
    page.show("restarted.ipynb", START, OVERLAY, EXPLORER)
    assert complaints(page.messages) == []
    page.page.evaluate("() => { jupyterapp.commands.execute('notebook:restart-kernel'); }")
    page.page.locator(".jp-Dialog .jp-mod-accept").first.click()
    page.wait(lambda: page.in_front("one.sessionContext.session.kernel.status") == "idle", "A new kernel")
    for place in (0, 2, 1):
        page.run(place)


def test_after_bokeh_without_panel_everything_is_drawn(lab: Callable[[], Lab]) -> None:
    page = lab()
    page.show("bare.ipynb", BARE, START, OVERLAY, EXPLORER, OWN)
    assert complaints(page.messages) == []


def test_no_figure_is_wider_than_its_cell_and_none_loses_its_shape(lab: Callable[[], Lab]) -> None:
    page = lab()
    # Notebooks keep in the page only what is seen of them, so that all of this one is.
    page.page.set_viewport_size({"width": 1094, "height": 5000})
    kinds = "{'kind': list('abcde'), 'layer': ['a', 'joint']}"
    scores = f"xr.Dataset({{n: (('kind', 'layer'), [[0.9, 0.8]] * 5) for n in ('where', 'what')}}, {kinds})"
    live = (
        "hv.DynamicMap(lambda n: st.overlay(acts, eig, image=0, component=n), kdims=hv.Dimension('n', values=[1, 2]))"
    )
    cells = ("st.overlay(acts, eig, layout='grid')", "st.overlay(acts, eig)", f"st.heat_map({scores})", live)
    start = START.replace("sample(1", "sample(2").replace("'vv'), 3", "'vv'), 8")
    wrong = []
    try:
        page.show("wide.ipynb", start, *cells)
        page.command("application:toggle-left-area")  # the list of files takes room, and how much is Jupyter's affair
        for width, columns in ((1094, (4, 2, 2, 1)), (800, (3, 2, 2, 1))):
            page.page.set_viewport_size({"width": width, "height": 5000})
            for place, expected in enumerate(columns, 1):
                until, seen = time.monotonic() + 30, {}
                while not _fits(seen, expected) and time.monotonic() < until:
                    page.page.wait_for_timeout(200)
                    seen = page.laid_out(place)
                if not _fits(seen, expected):
                    wrong.append((width, cells[place - 1], expected, seen))
    finally:
        page.page.set_viewport_size({"width": 1280, "height": 1500})
    assert wrong == []
    assert complaints(page.messages) == []


def _fits(seen: dict[str, list[float]], columns: int) -> bool:
    """Whether figures are in so many columns, within their cell, and square where that is their shape."""
    return bool(
        len(set(seen.get("lefts", []))) == columns
        and max(seen["over"]) <= 0
        and all(abs(shape - 1) < 0.02 for shape in seen["shapes"])
    )
