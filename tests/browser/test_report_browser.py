"""The report and an overlay in a real browser: what is seen is right, and nothing leaves the machine."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from bokeh.embed import components
from bokeh.resources import Resources
from eigen_fixtures import activations, eigenvectors, pictures
from PIL import Image
from playwright.sync_api import Browser
from watched_page import HOSTILE, Watched, pixels

import spectral_toolkit as st
from spectral_toolkit._render import composite
from spectral_toolkit._views.report import render_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ("wide", HOSTILE)
    answers = {kind: eigenvectors(kind, names=names, isolated=((0, 3, 7),)) for kind in ("qk", "vv")}
    return render_report(activations(names=names), answers, tmp_path_factory.mktemp("report") / "report.html")


def colours_at(picture: np.ndarray, places: list[tuple[float, float]]) -> np.ndarray:
    height, width = picture.shape[:2]
    return np.array([picture[int(y * height), int(x * width)] for y, x in places])


QUARTERS = [(0.3, 0.2), (0.3, 0.8), (0.8, 0.2), (0.6, 0.6)]


def expected_quarters(component: int, opacity: float) -> np.ndarray:
    field = eigenvectors().eigenvector.sel(component=component).isel(image=0).values
    colours = composite.colour_field(field, composite.symmetric_limit(field))
    return colours_at(composite.blend(pictures(1)[0], colours, opacity), QUARTERS).astype(int)


def test_pictures_and_eigenvectors_are_the_right_way_up(watched: Watched, report_path: Path) -> None:
    page = watched.open(report_path)
    card = page.locator("article").first
    original, qk, _ = (pixels(card.locator(".stage").nth(place)) for place in range(3))
    assert original.shape[1] / original.shape[0] == pytest.approx(2, rel=0.02)
    assert np.abs(colours_at(original, QUARTERS) - colours_at(pictures(1)[0], QUARTERS)).max() <= 2
    assert np.abs(colours_at(qk, QUARTERS) - expected_quarters(1, 0.7)).max() <= 3
    # Hatching covers the last cell of the last row, and no other corner.
    corner = qk[-qk.shape[0] // 4 :, -qk.shape[1] // 8 :]
    assert corner.std(axis=(0, 1)).max() > 10
    assert qk[8 : qk.shape[0] // 4, -qk.shape[1] // 8 + 2 : -8].std(axis=(0, 1)).max() < 10


def test_component_opacity_and_smoothing_switch_without_python(watched: Watched, report_path: Path) -> None:
    page = watched.open(report_path)
    qk = page.locator("article").first.locator("[data-affinity=qk]")
    stage = qk.locator(".stage")
    page.get_by_text("2", exact=True).locator("xpath=ancestor::label").click()
    assert np.abs(colours_at(pixels(stage), QUARTERS) - expected_quarters(2, 0.7)).max() <= 3
    assert qk.locator("img:visible").get_attribute("data-component") == "2"
    assert qk.locator(".numbers:visible").count() == 1
    assert page.locator("#status").text_content() == "Component 2 of 4"
    page.locator("#opacity").fill("0")
    assert np.abs(colours_at(pixels(stage), QUARTERS) - colours_at(pictures(1)[0], QUARTERS)).max() <= 2
    page.locator("#opacity").fill("100")
    blocky = pixels(stage)
    assert np.abs(colours_at(blocky, QUARTERS) - expected_quarters(2, 1.0)).max() <= 3
    page.get_by_label("Smooth").check()
    assert np.abs(pixels(stage) - blocky).max() > 5


def test_keyboard_reaches_the_controls_and_changes_the_component(watched: Watched, report_path: Path) -> None:
    page = watched.open(report_path)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    visible = page.locator("article").first.locator("[data-affinity=vv] img:visible")
    assert visible.get_attribute("data-component") == "2"
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.name || document.activeElement.tagName")
        )
    assert {"component", "opacity", "smooth", "SUMMARY", "copy"} <= reached
    page.locator("input[name=component]:checked").focus()
    page.keyboard.press("ArrowRight")
    assert visible.get_attribute("data-component") == "3"
    marked = (
        page.locator("article").first.locator(".is-current").evaluate_all("all => all.map(one => one.dataset.mark)")
    )
    assert marked == ["3", "3"]


def test_hostile_names_do_nothing(watched: Watched, report_path: Path) -> None:
    page = watched.open(report_path)
    assert page.title() == "What tiny-vit groups together"
    assert page.locator("h2", has_text="<img src=x onerror=").count() == 1
    assert page.evaluate("JSON.parse(document.getElementById('provenance').textContent).images[1]") == HOSTILE


def test_page_is_whole_without_javascript(chromium: Browser, report_path: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report_path.as_uri())
    assert page.locator("#controls").is_hidden()
    assert page.get_by_text("Without JavaScript, only component 1 is shown").is_visible()
    tiles = page.locator("article").first.locator("img:visible")
    assert [tiles.nth(place).get_attribute("data-component") for place in range(tiles.count())] == ["1", "1"]
    assert page.locator("#copy").is_hidden()
    context.close()


@pytest.mark.parametrize("width", [1280, 800, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_and_fits(chromium: Browser, report_path: Path, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # pyright: ignore[reportArgumentType]
    page = context.new_page()
    page.goto(report_path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) == []
    context.close()


# WCAG 2.2, success criterion 1.4.3: 4.5 to 1 for text of ordinary size, on the nearest background that is not clear.
CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !node.checkVisibility() || node.closest("script, .visually-hidden")) continue;
    const style = getComputedStyle(node);
    const ink = parse(node.closest("svg") ? style.fill : style.color);
    const pair = [light(ink), light(ground(node))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${node.className} ${text.slice(0, 40)}`);
  }
  return poor;
}"""


def test_overlay_is_the_right_way_up_in_the_browser(watched: Watched, tmp_path: Path) -> None:
    import holoviews as hv

    eig = eigenvectors()
    figure = hv.render(st.overlay(activations(), eig, image=0, component=1, opacity=0.6, width=400), backend="bokeh")
    # Bokeh's own script alone: Panel, once imported, would add others to a page made by ``file_html``.
    library = Resources("inline", components=["bokeh"]).js_raw[0]
    path = tmp_path / "overlay.html"
    path.write_text(f"<meta charset='utf-8'><script>{library}</script>{''.join(components(figure))}")
    page = watched.open(path)
    page.wait_for_function("Bokeh.index && Bokeh.documents[0].is_idle")
    page.wait_for_timeout(300)
    frame = page.evaluate(
        """() => {
          const view = Object.values(Bokeh.index).at ? Object.values(Bokeh.index)[0] : [...Bokeh.index.roots][0];
          const box = view.frame.bbox, place = view.el.getBoundingClientRect();
          return {x: place.x + box.left, y: place.y + box.top, width: box.width, height: box.height};
        }"""
    )
    assert (frame["width"], frame["height"]) == (400, 200)
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=frame))).convert("RGB")).astype(int)
    assert np.abs(colours_at(shot, QUARTERS) - expected_quarters(1, 0.6)).max() <= 3
