"""The explorer in a real Jupyter and a real browser: what is seen is right, and nothing leaves the machine."""

from __future__ import annotations

import base64
import io
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page
from real_jupyter import Jupyter, complaints, notebook, serving
from watched_page import barriers, pixels, shot

import spectral_toolkit as st
from spectral_toolkit._render.composite import blend, colour_field, symmetric_limit

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CELLS = (
    'import spectral_toolkit as st\nmodel = st.load_model("scenes")\nscenes = st.scenes.sample(4, seed=0).pixels',
    "explorer = st.Explorer(model, scenes, progress=False)\nexplorer",
)
LOCAL_SHEETS = """() => {
    const within = (root) => [...root.querySelectorAll("*")].reduce((n, one) => n + (one.shadowRoot ?
        within(one.shadowRoot) : one.matches("link[href^='data:text/css']") && one.sheet ? 1 : 0), 0);
    return within(document);
}"""
"""How many style sheets of the page are part of it and in force."""
PATIENCE = 240  # seconds for one thing to happen on a busy machine


class Bench:
    """A page with the explorer in it, and all that it asked for or complained about."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page, self.folder = page, folder
        self.requests: list[str] = []
        self.messages: list[str] = []
        page.context.set_default_timeout(1000 * PATIENCE)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.messages.append(f"pageerror: {error}"))
        page.on("console", lambda m: self.messages.append(f"{m.type}: {m.text}") if m.type == "error" else None)

    def open(self, url: str, cells: int = len(CELLS), shown: str = ".st-explorer .bk-Figure:visible") -> None:
        """Open a notebook and run its first cells, the last of which shows the explorer, or something else."""
        self.page.goto(url)
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        self.wait(self._connected, "A kernel")
        self.page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
        for _ in range(cells):
            self.page.keyboard.press("Shift+Enter")
        self.wait(lambda: self.page.locator(shown).count() > 0, "The first view")

    def _connected(self) -> bool:
        """Whether the notebook has a kernel: before that, what is run does nothing, whatever the page says."""
        status = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.connectionStatus"
        return self.page.evaluate(f"() => {status}") == "connected"

    def save(self, name: str) -> str:
        """Save the notebook; gives what is then in its file."""
        path, before = self.folder / name, (self.folder / name).stat().st_mtime_ns
        self.page.keyboard.press("Control+s")
        self.wait(lambda: path.stat().st_mtime_ns > before and not self._unsaved(), "A saved notebook")
        return path.read_text()

    def _unsaved(self) -> bool:
        return self.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.model.dirty")

    @property
    def explorer(self):
        return self.page.locator(".st-explorer").first

    def button(self, name: str):
        return self.explorer.get_by_role("button", name=name, exact=True)

    def picture(self, place: int = 0) -> np.ndarray:
        """What is drawn in one of the figures that are shown, without the cursor over it."""
        self.page.mouse.move(2, 2)
        return pixels(self.explorer.locator(".bk-Figure:visible").nth(place))

    def figure(self) -> bytes:
        """The first figure, with the mouse where it is."""
        return shot(self.explorer.locator(".bk-Figure:visible").first)

    def weigh(self, first: int, last: int, weight: float) -> None:
        """Drag across some rows of the matrix of layers, from the first to the last, at one weight of 0 to 2."""
        self.explorer.locator(".st-track").nth(last).scroll_into_view_if_needed()
        tracks = [self.explorer.locator(".st-track").nth(place).bounding_box() for place in (first, last)]
        assert tracks[0] is not None
        assert tracks[1] is not None
        x = tracks[0]["x"] + weight / 2 * tracks[0]["width"]
        self.page.mouse.move(x, tracks[0]["y"] + 4)
        self.page.mouse.down()
        self.page.mouse.move(x, tracks[1]["y"] + 4)
        self.page.mouse.up()

    def weights(self) -> list[float]:
        """The weights that the matrix shows."""
        rows = self.explorer.locator(".st-layer")
        return [float(rows.nth(place).get_attribute("aria-valuenow") or "nan") for place in range(rows.count())]

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > end:
                self.page.screenshot(path=self.folder / "failed.png")
                pytest.fail(f"{what} did not happen: see {self.folder}; the console says {self.messages[-3:]}")
            self.page.wait_for_timeout(100)

    def wait_for_colours(self, expected: np.ndarray, place: int = 0, at_most: float = 5.0) -> None:
        self.wait(lambda: difference(self.picture(place), expected) < at_most, "The picture that was expected")

    def tap(self, row: int, column: int, place: int = 0) -> None:
        figure = self.explorer.locator(".bk-Figure:visible").nth(place)
        figure.scroll_into_view_if_needed()
        box = figure.bounding_box()
        assert box is not None
        x, y = box["x"] + (column + 0.5) / 12 * box["width"], box["y"] + (row + 0.5) / 12 * box["height"]
        self.page.mouse.click(x, y)


def difference(seen: np.ndarray, expected: np.ndarray) -> float:
    """Mean distance of colours at the middles of the patches, (12, 12, 3) expected."""
    height, width = seen.shape[:2]
    places = [[(int((r + 0.44) / 12 * height), int((c + 0.44) / 12 * width)) for c in range(12)] for r in range(12)]
    middles = np.array([[seen[y, x] for y, x in row] for row in places])
    return float(np.abs(middles - expected).mean())


def common(*seen: np.ndarray) -> list[np.ndarray]:
    """Pictures of one figure, cut to the size of the smallest: a figure between two pixels may gain or lose a line."""
    height, width = (min(one.shape[axis] for one in seen) for axis in (0, 1))
    return [one[:height, :width] for one in seen]


def apart(seen: np.ndarray, other: np.ndarray) -> float:
    """Mean distance of the colours of two pictures of one figure."""
    return float(np.abs(np.subtract(*common(seen, other))).mean())


def dark_edges(seen: np.ndarray) -> int:
    """How many edges between two patches have something as dark as the line of a cut in their middle."""
    height, width = seen.shape[:2]
    dark = seen.max(axis=2) < 70
    found = 0
    for row in range(12):
        for column in range(1, 12):
            for y, x in (((row + 0.5) / 12, column / 12), (column / 12, (row + 0.5) / 12)):
                at_y, at_x = round(y * height), round(x * width)
                found += bool(dark[at_y - 2 : at_y + 3, at_x - 2 : at_x + 3].any())
    return found


def is_lowest(words: str) -> bool:
    """Whether the words beside the slider are about the lowest cut."""
    return re.search(r"normalised cut (\S+) \(lowest \1,", words) is not None


@pytest.fixture(scope="module")
def solve() -> Callable[..., np.ndarray]:
    """Colours that the middles of patches must have: the same numbers, computed here."""
    pixels = st.scenes.sample(4, seed=0).pixels
    acts = st.capture("scenes", pixels, progress=False)

    def colours(
        kind: str, component: int = 1, image: int = 0, opacity: float = 0.7, weights=None, threshold: float = -np.inf
    ) -> np.ndarray:
        graph = st.affinity(acts.isel(image=[image]), kind)
        eig = st.solve(graph if weights is None else graph.reweight(weights), 10)
        field = eig.eigenvector.isel(image=0).sel(component=component).values
        limit = symmetric_limit(field)
        shown = np.where(field > threshold * limit, opacity, 0.0)
        whole = blend(pixels.values[image], colour_field(field, limit), shown)
        middles = [int((place + 0.44) * 8) for place in range(12)]
        return whole[np.ix_(middles, middles)].astype(int)

    return colours


@pytest.fixture(scope="module")
def bench(browser: Browser, jupyter: Jupyter) -> Iterator[Bench]:
    nbformat.write(notebook(*CELLS), jupyter.folder / "explorer.ipynb")
    context = browser.new_context(viewport={"width": 1280, "height": 1300}, accept_downloads=True)
    made = Bench(context.new_page(), jupyter.folder)
    made.open(jupyter.address("explorer.ipynb"))
    made.page.keyboard.press("Control+b")  # the list of files takes room
    yield made
    context.close()


def chromium_or_exit() -> str:
    """Path of an installed Chromium, for the scripts that use these helpers."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise SystemExit("No Chromium is installed: get one with 'apt-get install chromium'.")
    return found


def test_a_student_explores(bench: Bench, solve: Callable[..., np.ndarray]) -> None:
    """First view, QK to VV, another component, a weight, a tap, compare, every view, and back."""
    bench.wait_for_colours(solve("qk"), 0)
    bench.wait_for_colours(solve("vv"), 1)

    bench.explorer.get_by_label("Compare with a second setting").uncheck()
    bench.wait(lambda: bench.explorer.locator(".bk-Figure:visible").count() == 1, "One picture alone")
    bench.button("VV").first.click()
    bench.wait_for_colours(solve("vv"))
    assert difference(bench.picture(), solve("qk")) > 10

    bench.button("2").click()
    bench.wait_for_colours(solve("vv", 2))
    bench.button("1").click()
    bench.wait_for_colours(solve("vv"))

    bench.weigh(0, 0, 0.25)
    weights = {"model.layer.0": 0.25}
    assert bench.weights()[0] == 0.25
    bench.wait_for_colours(solve("vv", weights=weights))
    # The weights of a drag may arrive after the click that follows it, and must not undo it.
    bench.weigh(0, 3, 0.0)
    bench.button("all").click()
    bench.wait(lambda: bench.weights() == [1.0] * 6, "All layers again")
    bench.wait_for_colours(solve("vv"))
    bench.weigh(1, 2, 1.5)
    assert bench.weights() == [1.0, 1.5, 1.5, 1.0, 1.0, 1.0]
    bench.wait_for_colours(solve("vv", weights={"model.layer.1": 1.5, "model.layer.2": 1.5}))
    bench.button("all").click()
    bench.wait_for_colours(solve("vv"))

    bench.tap(5, 4)
    text = bench.explorer.get_by_text("VV affinities of the patch in row 5, column 4")
    text.wait_for(timeout=PATIENCE * 1000)
    bench.wait(lambda: bench.explorer.locator(".bk-Figure:visible").count() == 2, "Rows of the tapped patch")
    rows = bench.picture(1)
    bench.tap(1, 1)
    bench.wait(lambda: apart(bench.picture(1), rows) > 3, "Rows of another patch")
    bench.button("Forget patch").click()
    bench.wait(lambda: bench.explorer.locator(".bk-Figure:visible").count() == 1, "No rows")

    whole = bench.picture()
    bench.explorer.get_by_label("Cut in two").check()
    bench.button("Lowest cut").click()
    bench.wait(lambda: apart(bench.picture(), whole) > 3, "One side only")
    told = bench.explorer.get_by_text("of the patches, normalised cut")
    bench.wait(lambda: is_lowest(told.inner_text()), "The lowest cut")
    above = bench.explorer.locator(".widget-inline-hbox", has_text="Above")
    box, figure = above.get_by_role("slider").bounding_box(), bench.figure()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    bench.page.mouse.move(x, y)
    bench.page.mouse.down()
    for step in range(8):
        bench.page.mouse.move(x + 8 * step, y)
    bench.wait(lambda: bench.figure() != figure and not is_lowest(told.inner_text()), "What follows a held hand")
    bench.page.mouse.up()
    threshold = float(above.locator(".widget-readout").inner_text().replace("\N{MINUS SIGN}", "-"))
    bench.wait_for_colours(solve("vv", threshold=threshold))
    bench.wait(lambda: dark_edges(bench.picture()) > dark_edges(whole) + 5, "The line where the side ends")
    bench.button("Lowest cut").click()
    bench.wait(lambda: is_lowest(told.inner_text()), "The lowest cut again")
    bench.explorer.get_by_label("Cut in two").uncheck()
    bench.wait_for_colours(solve("vv"))

    bench.explorer.get_by_label("Compare with a second setting").check()
    bench.wait_for_colours(solve("vv"), 0)
    bench.wait_for_colours(solve("qk"), 1)
    seen = []
    for view in ("All", "RGB", "Segments", "Instances", "Norms", "Spectrum", "Layers", "Eigenvector"):
        bench.button(view).click()
        bench.wait(lambda: not same(shot(bench.explorer), seen[-1:]), f"The view {view}")
        bench.page.wait_for_timeout(300)
        seen.append(shot(bench.explorer))
    bench.wait_for_colours(solve("qk"), 1)
    bench.button("Image scene_0002").click()
    bench.wait_for_colours(solve("vv", image=2), 0)
    bench.wait_for_colours(solve("qk", image=2), 1)
    bench.button("Image scene_0000").click()
    bench.wait_for_colours(solve("vv"), 0)
    assert complaints(bench.messages) == []


def same(shot: bytes, earlier: list[bytes]) -> bool:
    return bool(earlier) and shot == earlier[0]


def test_zoom_and_cursor_are_common_to_both_pictures(bench: Bench) -> None:
    boxes = [bench.explorer.locator(".bk-Figure:visible").nth(place).bounding_box() for place in (0, 1)]
    assert boxes[0] is not None
    plain = [bench.picture(place) for place in (0, 1)]
    width, height = boxes[0]["width"], boxes[0]["height"]
    bench.page.mouse.move(boxes[0]["x"] + 100, boxes[0]["y"] + 150)

    def crossed() -> bool:
        other = pixels(bench.explorer.locator(".bk-Figure:visible").nth(1))
        changed = np.abs(np.subtract(*common(other, plain[1]))).sum(axis=2) > 30
        upright = changed[:, int(100 / width * changed.shape[1]) + np.arange(-2, 3)]
        level = changed[int(150 / height * changed.shape[0]) + np.arange(-2, 3)]
        return bool(upright.any() and level.any())

    bench.wait(crossed, "The cursor in the second picture")
    bench.page.evaluate(
        """() => { for (const doc of Bokeh.documents) for (const root of doc.roots()) for (const model of
        root.references()) if (model.type === "Figure" && model.name === "first") {
        model.x_range.setv({start: 0, end: 100}); } }"""
    )
    bench.wait(lambda: apart(bench.picture(1), plain[1]) > 3, "The second picture zooms too")
    bench.page.evaluate(
        """() => { for (const doc of Bokeh.documents) for (const root of doc.roots()) for (const model of
        root.references()) if (model.type === "Figure" && model.name === "first") model.x_range.reset(); }"""
    )
    bench.wait(lambda: apart(bench.picture(1), plain[1]) < 1, "Both are whole again")


def test_saved_page_opens_without_jupyter(bench: Bench) -> None:
    bench.button("Save HTML").click()
    path = bench.folder / "explorer.html"
    bench.wait(path.exists, "The page")
    page = bench.page.context.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.goto(path.as_uri())
    page.wait_for_timeout(500)
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert wrong == []
    assert page.locator("img:visible, canvas:visible").count() > 0
    page.close()


def test_code_is_shown_and_copied(bench: Bench) -> None:
    bench.button("Copy as code").click()
    box = bench.explorer.locator("textarea")
    box.wait_for(state="visible")
    bench.wait(lambda: "st.solve(graph, n_eigenvectors=10)" in box.input_value(), "The code")


@pytest.mark.parametrize("width", [1280, 1000, 800])
def test_text_is_readable_and_the_layout_holds(bench: Bench, width: int) -> None:
    bench.page.set_viewport_size({"width": width, "height": 1300})
    bench.page.wait_for_timeout(1000)
    assert barriers(bench.page, ("color-contrast", "button-name", "label", "select-name"), ".st-explorer") == []
    over = bench.explorer.evaluate("one => one.scrollWidth - one.clientWidth")
    assert over <= 1
    figures = bench.explorer.locator(".bk-Figure:visible")
    edge = bench.explorer.bounding_box()
    assert edge is not None
    for place in range(figures.count()):
        box = figures.nth(place).bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= edge["x"] + edge["width"] + 1
        assert box["width"] > 150
    # Compared pictures are level, however long the words above one are, and those end where it ends.
    heading = bench.explorer.locator(".st-heads h2").first
    text = heading.evaluate("one => { const was = one.textContent; one.textContent = `${was} `.repeat(9); return was }")
    bench.page.wait_for_timeout(500)
    first, second, words = (one.bounding_box() or {} for one in (figures.nth(0), figures.nth(1), heading))
    heading.evaluate("(one, was) => { one.textContent = was }", text)
    assert first["x"] + first["width"] <= second["x"]
    assert first["y"] == pytest.approx(second["y"], abs=1)
    assert words["x"] + words["width"] <= first["x"] + first["width"] + 2
    # The controls scroll by themselves, so that more of them never make the page longer; rows of layers never shrink.
    more = """one => { const whole = () => one.closest(".st-explorer").offsetHeight, before = whole();
        const matrix = one.querySelector(".st-matrix"), rows = [...matrix.children];
        for (let n = 0; n < 15; n++) for (const row of rows) matrix.append(row.cloneNode(true));
        const seen = [whole() - before, one.scrollHeight > one.clientHeight, rows[0].offsetHeight];
        matrix.replaceChildren(...rows); return seen }"""
    assert bench.explorer.locator(".st-scrolled").evaluate(more) == [0, True, 15]
    bar = bench.explorer.locator(".bk-Toolbar:visible").first.bounding_box()
    assert bar is not None
    assert bar["y"] + bar["height"] <= first["y"] + 1, "the toolbar is above the images, and not over them"
    bench.wait(lambda: figures.nth(0).bounding_box() != first, "The usual words")  # whose height is another
    first, controls = (one.bounding_box() or {} for one in (figures.nth(0), bench.explorer.locator(".st-left")))
    beside, below = controls["x"] + controls["width"] <= first["x"], controls["y"] >= first["y"] + first["height"]
    assert (beside, below) == ((False, True) if width == 800 else (True, False))


def test_keyboard_reaches_every_control(bench: Bench) -> None:
    bench.page.set_viewport_size({"width": 1280, "height": 1300})
    bench.explorer.get_by_role("button").first.focus()
    reached = set()
    for _ in range(100):
        name = bench.page.evaluate(
            "((one) => (one.ariaLabel || one.title || one.textContent || one.type || one.tagName).trim())"
            "(document.activeElement)"
        )
        reached.add(name)
        bench.page.keyboard.press("Tab")
    text = " ".join(reached)
    for wanted in (
        "Image scene_0001",
        "Value-value",
        "All layers, each at weight 1",
        "Weight of layer model.layer",
        "Show eigenvector 3",
        "Python",
    ):
        assert wanted in text, (wanted, sorted(reached))
    row = bench.explorer.locator(".st-layer")
    row.first.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowDown", " "):
        bench.page.keyboard.press(key)
    assert bench.weights() == [1.0, 1.0, 0.9, 0.0, 1.0, 1.0]
    assert row.nth(3).get_attribute("aria-valuetext") == "off"
    bench.button("all").click()
    bench.wait(lambda: bench.weights() == [1.0] * 6, "All layers")


def test_it_follows_the_theme_of_jupyterlab(bench: Bench) -> None:
    bench.page.set_viewport_size({"width": 1280, "height": 1300})
    bench.button("All").click()
    ground = "one => getComputedStyle(one).backgroundColor.match(/\\d+/g).slice(0, 3).every((part) => part < 60)"
    captions = """() => { for (const doc of Bokeh.documents) for (const root of doc.roots()) for (const one of
        root.references()) if (one.name === "first") for (const {glyph} of one.renderers) if (glyph.type === "Text")
        return glyph.text_color.value.match(/\\d+/g).slice(0, 3).every((part) => part > 180) }"""
    for theme, dark in (("JupyterLab Dark", True), ("JupyterLab Light", False)):
        bench.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        bench.wait(lambda dark=dark: bench.explorer.evaluate(ground) == dark, "The ground of the theme")
        bench.wait(lambda dark=dark: bench.page.evaluate(captions) == dark, "Captions that can be read on it")
        assert barriers(bench.page, ("color-contrast",), ".st-explorer") == []
    bench.button("Eigenvector").click()


def test_it_fills_the_screen_and_leaves_it_again(bench: Bench) -> None:
    is_full = "() => document.fullscreenElement?.classList.contains('st-explorer') ?? false"
    for wanted in (True, False):
        bench.button("Full screen").click()
        bench.wait(lambda wanted=wanted: bench.page.evaluate(is_full) == wanted, f"Full screen: {wanted}")


def test_a_head_is_seen_large_under_the_cursor_and_kept_by_a_tap(bench: Bench) -> None:
    bench.button("Heads").click()
    bench.explorer.get_by_text("Every layer and head").first.wait_for()
    figures = bench.explorer.locator(".bk-Figure:visible")
    bench.wait(lambda: figures.count() == 2, "The matrix, and a large map beside it")
    bench.wait(lambda: figures.first.bounding_box() is not None, "The matrix where it stays")
    matrix, first = figures.first.bounding_box(), shot(figures.nth(1))
    assert matrix is not None
    at = matrix["x"] + 0.7 * matrix["width"], matrix["y"] + 0.75 * matrix["height"]
    bench.page.mouse.move(*at)
    bench.wait(lambda: not same(shot(figures.nth(1)), [first]), "Another map, from the page alone")
    bench.page.mouse.click(*at)
    bench.page.mouse.move(2, 2)
    bench.wait(lambda: not same(shot(figures.nth(1)), [first]), "The map that was tapped, without the cursor")
    bench.button("Eigenvector").click()


def test_a_reloaded_page_shows_what_is_now(bench: Bench, solve: Callable[..., np.ndarray]) -> None:
    bench.explorer.get_by_label("Compare with a second setting").uncheck()
    bench.button("KK").first.click()
    bench.wait_for_colours(solve("kk"))
    saved = bench.save("explorer.ipynb")
    assert len(saved) < 450_000  # no BokehJS, and one picture, twice
    assert "A still image of the explorer" in saved
    assert "bokeh" not in saved.lower()
    bench.page.reload()
    bench.page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    bench.page.wait_for_selector(".st-explorer .bk-Figure:visible")
    bench.wait_for_colours(solve("kk"))


def test_a_dropped_photo_is_captured_and_the_page_goes_on(bench: Bench) -> None:
    stream = io.BytesIO()
    Image.fromarray(st.scenes.sample(1, seed=9).pixels.values[0]).save(stream, "PNG")
    dropped = bench.page.evaluate_handle(
        """(content) => {
            const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0)), files = new DataTransfer();
            files.items.add(new File([bytes], "cat.png", {type: "image/png"}));
            return files;
        }""",
        base64.b64encode(stream.getvalue()).decode(),
    )
    before = bench.picture()
    bench.explorer.dispatch_event("drop", {"dataTransfer": dropped})
    bench.explorer.get_by_text("Added cat.png.").wait_for()
    bench.wait(lambda: apart(bench.picture(), before) > 5, "The new image")
    # What the page says is still heard, once, and what Python says is still seen.
    bench.weigh(0, 0, 0.0)
    bench.wait(lambda: bench.weights()[0] == 0, "A weight that was set")
    bench.button("Undo").click()
    bench.wait(lambda: bench.weights()[0] == 1, "A weight that was taken back")
    assert bench.explorer.locator(".st-thumbs button").count() == 5
    # The button has the browser ask for files, and the same becomes of them.
    with bench.page.expect_file_chooser() as chooser:
        bench.button("Add images").click()
    chooser.value.set_files({"name": "dog.png", "mimeType": "image/png", "buffer": stream.getvalue()})
    bench.explorer.get_by_text("Added dog.png.").wait_for()
    assert bench.explorer.locator(".st-thumbs button").count() == 6


def test_nothing_left_the_machine_and_nothing_went_wrong(bench: Bench) -> None:
    local = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:", "file:")
    assert [url for url in bench.requests if not url.startswith(local)] == []
    assert complaints(bench.messages) == []


OTHER_FIGURES = {
    "overlay": (
        "import spectral_toolkit as st\nacts = st.capture('scenes', st.scenes.sample(1, seed=0), progress=False)",
        "st.overlay(acts, st.solve(st.affinity(acts, 'vv'), 3))",
    ),
    "heat_map": (
        "import spectral_toolkit as st\nimport xarray as xr\n"
        "scores = xr.Dataset({'where': (('kind', 'layer'), [[0.9, 0.8]])}, {'kind': ['qk'], 'layer': ['a', 'joint']})",
        "st.heat_map(scores, names=('where',))",
    ),
}


@pytest.mark.parametrize("name", OTHER_FIGURES)
def test_other_figures_ask_nothing_of_the_network_either(bench: Bench, jupyter: Jupyter, name: str) -> None:
    cells = OTHER_FIGURES[name]
    nbformat.write(notebook(*cells), bench.folder / f"{name}.ipynb")
    other = Bench(bench.page.context.new_page(), bench.folder)
    other.open(jupyter.address(f"{name}.ipynb"), len(cells), ".jp-OutputArea .bk-Figure")
    other.page.wait_for_timeout(1000)
    local = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")
    assert [url for url in other.requests if not url.startswith(local)] == []
    assert other.page.evaluate(LOCAL_SHEETS) >= 4
    assert complaints(other.messages) == []
    other.page.close()


def test_a_page_that_has_lost_bokehjs_gets_it_again(bench: Bench, jupyter: Jupyter) -> None:
    cells = (*OTHER_FIGURES["heat_map"], "import holoviews as hv\nhv.Curve([1, 2, 3])")
    nbformat.write(notebook(*cells), bench.folder / "again.ipynb")
    other = Bench(bench.page.context.new_page(), bench.folder)
    other.open(jupyter.address("again.ipynb"), 2, ".jp-OutputArea .bk-Figure")
    figures = other.page.locator(".jp-OutputArea .bk-Figure")
    told = other.page.locator(".jp-OutputArea", has_text="BokehJS is not in this page")
    places = other.page.locator(".jp-Notebook .jp-CodeCell .cm-content")

    def is_there() -> bool:
        return other.page.evaluate("() => !!window.Bokeh && !!window.Bokeh.Panel")

    def run_without(place: int) -> None:
        other.page.evaluate("() => { window.Bokeh = undefined; }")
        places.nth(place).click()
        other.page.keyboard.press("Control+Enter")

    # The cell that brought it brings it again; any other figure says what to do.
    other.wait(is_there, "BokehJS")
    run_without(1)
    other.wait(is_there, "BokehJS, again")
    run_without(2)
    other.wait(lambda: told.count() > 0, "A word on BokehJS")
    # It is in what was saved, though its cell was run twice; and a page opened anew gets it with the first cell run.
    other.save("again.ipynb")
    other.page.reload()
    other.wait(lambda: figures.count() > 1, "The saved figures")
    run_without(2)
    other.wait(is_there, "BokehJS with a cell that had not brought it before")
    other.wait(lambda: figures.count() > 1 and told.count() == 0, "The figures")
    other.page.close()


def test_notebook_7_shows_it_too(chromium: Browser, tmp_path: Path, solve: Callable[..., np.ndarray]) -> None:
    nbformat.write(notebook(*CELLS), tmp_path / "explorer.ipynb")
    with serving(tmp_path, "notebook") as served:
        other = Bench(chromium.new_context(viewport={"width": 1280, "height": 1300}).new_page(), tmp_path)
        other.open(served.address("explorer.ipynb", "notebook"))
        other.wait_for_colours(solve("qk"), 0)
        other.wait_for_colours(solve("vv"), 1)
        other.button("KK").first.click()
        other.wait_for_colours(solve("kk"), 0)
        other.tap(3, 3)
        other.explorer.get_by_text("affinities of the patch in row 3, column 3").first.wait_for()
        assert complaints(other.messages) == []
        local = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")
        assert [url for url in other.requests if not url.startswith(local)] == []
