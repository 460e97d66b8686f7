"""The frozen page in a real browser: pixels are those of the solver, everything switches, anybody can use it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from eigen_fixtures import LAYERS, activations
from playwright.sync_api import Browser, Locator, Page
from real_jupyter import Jupyter, notebook
from watched_page import HOSTILE, Watched, barriers, expected, pixels

import spectral_toolkit as st
from spectral_toolkit._affinity.presets import preset_weights
from spectral_toolkit._render import composite

pytestmark = pytest.mark.browser


def tree() -> xr.DataTree:
    return activations(names=("wide", HOSTILE))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frozen") / "frozen.html"
    st.freeze(tree(), path=path, n_eigenvectors=4, device="cpu")
    return path


def opened(watched: Watched, path: Path) -> Page:
    page = watched.open(path)
    page.wait_for_selector("body[data-ready]")
    return page


def answer(kind: str = "qk", preset: str = "all") -> xr.Dataset:
    return st.solve(st.affinity(tree(), kind, weights=preset_weights(LAYERS, preset), device="cpu"), 4)


def cells(stage: Locator, rows: int = 4, columns: int = 8) -> np.ndarray:
    """The colour in the middle of every patch."""
    shot = pixels(stage)
    ys = ((np.arange(rows) + 0.5) * shot.shape[0] / rows).astype(int)
    xs = ((np.arange(columns) + 0.5) * shot.shape[1] / columns).astype(int)
    return shot[ys][:, xs]


def choose(page: Page, group: str, label: str) -> None:
    page.get_by_role("group", name=group, exact=True).get_by_role("radio", name=label, exact=True).check()


def test_a_picture_far_taller_than_wide_leaves_room(watched: Watched, tmp_path: Path) -> None:
    tall = activations(1, names=("tall",), grid=(10, 1), height=1000, width=20)
    st.freeze(tall, path=tmp_path / "tall.html", n_eigenvectors=2, device="cpu", regions=False)
    page = opened(watched, tmp_path / "tall.html")
    for which, highest in ((".thumbnail", 120), (".large .stage", 1000)):
        box = page.locator(which).first.bounding_box()
        assert box is not None
        assert box["height"] == pytest.approx(highest, abs=1)
        assert box["width"] == pytest.approx(highest / 50, abs=1)


def test_what_is_drawn_is_what_was_solved(watched: Watched, path: Path) -> None:
    page = opened(watched, path)
    page.locator("#opacity").fill("100")
    stage = page.locator(".large .stage").first
    assert np.abs(cells(stage) - expected(answer(), 0, 1)).max() <= 3
    choose(page, "Component", "3")
    assert np.abs(cells(stage) - expected(answer(), 0, 3)).max() <= 3
    choose(page, "Affinity", "VV")
    assert np.abs(cells(stage) - expected(answer("vv"), 0, 3)).max() <= 3
    choose(page, "Layers", "late")
    assert np.abs(cells(stage) - expected(answer("vv", "late"), 0, 3)).max() <= 3
    choose(page, "Image", HOSTILE)
    assert np.abs(cells(stage) - expected(answer("vv", "late"), 1, 3)).max() <= 3
    assert page.locator(".side h2").first.text_content() == "VV, late layers (1 of 3): eigenvector 3"
    eigenvalue = float(answer("vv", "late").eigenvalue.sel(component=3)[1])
    assert float(page.locator(".numbers dd").first.text_content() or "") == pytest.approx(eigenvalue, rel=1e-3)
    page.locator("#opacity").fill("0")
    # Nothing but the picture: red above left, dark below right.
    assert np.abs(cells(stage)[[0, -1], [0, -1]] - [[220, 40, 40], [30, 30, 30]]).max() <= 3


def test_a_component_is_cut_in_two(watched: Watched, path: Path, tmp_path: Path) -> None:
    page = opened(watched, path)
    page.locator("#opacity").fill("100")
    stage = page.locator(".large .stage").first
    assert page.locator("#threshold").is_disabled()
    page.get_by_label("Cut in two").check()
    page.locator("#threshold").fill("0.3")
    field = answer().eigenvector.isel(image=0).sel(component=1).values
    above = field > 0.3 * np.abs(field).max()
    shown = cells(stage)
    assert np.abs(shown - expected(answer(), 0, 1))[above].max() <= 3
    crossed = (above[:, 1:] != above[:, :-1]).sum() + (above[1:] != above[:-1]).sum()
    for line in ("casing", "cut"):
        assert (stage.locator(f"path.{line}").get_attribute("d") or "").count("M") == crossed > 0
    page.locator("#opacity").fill("0")
    assert np.abs(cells(stage) - shown)[~above].max() <= 3
    assert np.abs(cells(stage) - shown)[above].max() > 30
    share = f"Above 0.30: {100 * above.mean():.0f} % of the patches."
    assert page.locator(".share").first.text_content() == share
    page.get_by_role("tab", name="RGB").click()
    assert stage.locator("path.cut").count() == 0
    assert page.locator("#cutting").is_hidden()
    assert page.locator(".share").first.is_hidden()
    st.freeze(tree(), path=tmp_path / "a.html", n_eigenvectors=2, device="cpu", start={"threshold": 0.3})
    page = opened(watched, tmp_path / "a.html")
    assert page.get_by_label("Cut in two").is_checked()
    assert page.locator(".share").first.text_content() == share


def test_rgb_and_smoothing(watched: Watched, path: Path) -> None:
    page = opened(watched, path)
    page.locator("#opacity").fill("100")
    page.get_by_role("tab", name="RGB").click()
    fields = answer().eigenvector.isel(image=0).values[..., :3]
    wanted = composite.colour_three(fields, composite.robust_limit(fields)).astype(int)
    stage = page.locator(".large .stage").first
    assert np.abs(cells(stage) - wanted).max() <= 4
    blocky = pixels(stage)
    page.get_by_label("Smooth").check()
    assert np.abs(pixels(stage) - blocky).max() > 5


def test_a_tapped_patch_shows_whom_it_is_tied_to(watched: Watched, path: Path) -> None:
    page = opened(watched, path)
    stage = page.locator(".large .stage").first
    assert "Tap a patch" in (page.locator(".rows").first.text_content() or "")
    box = stage.bounding_box()
    assert box
    stage.click(position={"x": box["width"] * 6.5 / 8, "y": box["height"] * 2.5 / 4})
    assert page.locator(".rows h3").first.text_content() == "QK affinities of the patch in row 2, column 6"
    assert page.locator(".rows figcaption").all_text_contents() == [
        "all chosen layers, jointly", "layer 0", "layer 1", "layer 2",
    ]  # fmt: skip
    page.locator("#opacity").fill("100")
    dense = st.affinity(tree(), "qk", device="cpu").to_dense(0)
    for place, layer in enumerate(LAYERS):
        row = dense[layer][2 * 8 + 6].copy()
        own, row[2 * 8 + 6] = row[2 * 8 + 6], 0
        drawn = cells(page.locator(".rows .layers .stage").nth(place)).reshape(-1, 3)
        order = np.argsort(row)
        brightness = drawn.sum(axis=1)
        strongest, weakest = order[-1], order[1]
        assert brightness[strongest] > brightness[weakest] + 60, layer
        assert own > 0
    choose(page, "Layers", "early")
    assert page.locator(".rows figcaption").all_text_contents()[1:] == [
        "layer 0", "layer 1, not chosen", "layer 2, not chosen",
    ]  # fmt: skip


def test_two_settings_side_by_side_share_picture_patch_and_cursor(watched: Watched, path: Path) -> None:
    page = opened(watched, path)
    page.locator("#opacity").fill("100")
    page.get_by_label("Compare two").check()
    sides = page.locator(".side")
    assert sides.nth(1).locator("h2").text_content() == "VV, all layers: eigenvector 1"
    assert np.abs(cells(sides.nth(1).locator(".large .stage")) - expected(answer("vv"), 0, 1)).max() <= 3
    choose(page, "Layers on the right", "middle")
    assert np.abs(cells(sides.nth(0).locator(".large .stage")) - expected(answer(), 0, 1)).max() <= 3
    assert np.abs(cells(sides.nth(1).locator(".large .stage")) - expected(answer("vv", "middle"), 0, 1)).max() <= 3
    stage = sides.nth(0).locator(".large .stage")
    box = stage.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 1.5 / 8, box["y"] + box["height"] * 3.5 / 4)
    values = [answer("qk"), answer("vv", "middle")]
    for side, eig in enumerate(values):
        text = sides.nth(side).locator(".readout").text_content() or ""
        assert text.startswith("row 3, column 1: ")
        field = eig.eigenvector.isel(image=0).sel(component=1).values
        value = float(text.split(": ")[1].replace("−", "-"))
        assert value == pytest.approx(field[3, 1], abs=0.006 * np.abs(field).max())
        assert sides.nth(side).locator(".large .pointer").get_attribute("x") == "1"
    page.mouse.down()
    page.mouse.up()
    assert sides.nth(1).locator(".rows h3").text_content() == "VV affinities of the patch in row 3, column 1"


def test_it_begins_where_it_is_told_on_both_sides(watched: Watched, tmp_path: Path) -> None:
    start = {
        "kind": "vv",
        "preset": "late",
        "compare": True,
        "other_kind": "vv",
        "other_preset": "early",
        "smooth": True,
    }
    st.freeze(tree(), path=tmp_path / "a.html", n_eigenvectors=4, device="cpu", start=start)
    page = opened(watched, tmp_path / "a.html")
    assert page.locator("#smooth").is_checked()
    page.locator("#smooth").uncheck()
    page.locator("#opacity").fill("100")
    stages = page.locator(".large .stage")
    assert stages.count() == 2
    for stage, preset in zip(stages.all(), ("late", "early"), strict=True):
        assert np.abs(cells(stage) - expected(answer("vv", preset), 0, 1)).max() <= 3


def test_all_of_it_by_keyboard(watched: Watched, path: Path) -> None:
    page = opened(watched, path)
    reached = set()
    for _ in range(24):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(e => e.name || e.id || e.className || e.tagName)(document.activeElement)"))
    assert {
        "image",
        "kind0",
        "preset0",
        "compare",
        "opacity",
        "smooth",
        "tab-component",
        "component",
        "stage",
        "SUMMARY",
    } <= reached
    page.locator(".large .stage").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.locator(".rows h3").first.text_content() == "QK affinities of the patch in row 1, column 3"
    page.keyboard.press("ArrowRight")
    assert page.locator(".rows h3").first.text_content() == "QK affinities of the patch in row 1, column 4"
    assert (page.locator(".readout").first.text_content() or "").startswith("row 1, column 4: ")
    page.keyboard.press("Escape")
    assert page.locator(".rows h3").count() == 0
    page.locator("#tab-component").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("[aria-selected=true]").get_attribute("id") == "tab-grid"
    assert page.evaluate("document.activeElement.id") == "tab-grid"
    page.locator(".tiles button").nth(1).press("Enter")
    assert page.locator(".side h2").first.text_content() == "QK, all layers: eigenvector 2"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    assert page.locator(".side h2").first.text_content() == "QK, all layers: eigenvector 3"


def test_spectrum_and_layers(watched: Watched, path: Path) -> None:
    page = opened(watched, path)
    page.get_by_role("tab", name="Spectrum").click()
    chart = page.locator(".side .spectrum").first
    assert "Eigenvalues: 1: " in (chart.get_attribute("aria-label") or "")
    assert chart.locator("circle").count() == 4
    masses = [float(text.split()[0]) for text in page.locator(".shares td:nth-child(2)").all_text_contents()]
    assert masses == pytest.approx(100 * answer().layer_mass.isel(image=0, component=0).values, abs=0.51)


def test_hostile_names_do_nothing(watched: Watched, path: Path) -> None:
    page = opened(watched, path)
    choose(page, "Image", HOSTILE)
    for tab in ("All", "RGB", "Spectrum", "Eigenvector"):
        page.get_by_role("tab", name=tab).click()
    assert page.title() == "What tiny-vit groups together"
    assert HOSTILE in (page.locator(".large .stage").first.get_attribute("aria-label") or "")


def test_without_javascript_every_picture_is_there_with_its_first_eigenvector(chromium: Browser, path: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.get_by_text("Without JavaScript, only eigenvector 1 of QK is shown").is_visible()
    assert page.locator("img.tile:visible").count() == 2
    assert page.locator("#main").is_hidden()
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (800, "light"), (400, "dark")])
def test_anybody_can_read_and_reach_it(chromium: Browser, path: Path, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # pyright: ignore[reportArgumentType]
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]")
    page.get_by_label("Compare two").check()
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    for tab in ("Eigenvector", "All", "RGB", "Segments", "Instances", "Spectrum"):
        page.get_by_role("tab", name=tab, exact=True).click()
        if tab == "Eigenvector":
            page.locator(".large .stage").first.click()
        assert barriers(page) == [], tab
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
    context.close()


def test_what_keeps_readers_out_is_found(chromium: Browser) -> None:
    page = chromium.new_page()
    page.set_content('<img src="data:,"><p style="color: #bbb; background: #fff">pale</p>')
    assert {"image-alt", "color-contrast", "html-has-lang"} <= {rule for rule, _ in barriers(page)}


def test_segments_and_instances_are_those_of_the_toolkit(watched: Watched, path: Path) -> None:
    page = opened(watched, path)
    page.locator("#opacity").fill("100")
    eig = answer()
    page.get_by_role("tab", name="Segments").click()
    drawn = cells(page.locator(".large .stage").first)
    labels = st.segment(eig).isel(image=0).values
    for label in np.unique(labels):
        colours = drawn[labels == label]
        assert np.abs(colours - colours[0]).max() <= 3
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == len(np.unique(labels))
    page.get_by_role("tab", name="Instances").click()
    drawn = cells(page.locator(".large .stage").first)
    masks = st.instances(eig, n_instances=8).isel(image=0).values
    smallest = min((mask for mask in masks if mask.any()), key=np.count_nonzero)
    assert len(np.unique(drawn[smallest], axis=0)) == 1


def test_notebooks_that_end_with_it_survive_papermill_and_nbconvert(
    watched: Watched, repository: Path, tmp_path: Path
) -> None:
    import nbformat
    import papermill
    from nbconvert import HTMLExporter

    sources = [
        "import sys, spectral_toolkit as st\n"
        f"sys.path.insert(0, {str(repository / 'tests')!r})\n"
        "from eigen_fixtures import activations\n"
        "page = st.freeze(activations(), n_eigenvectors=4, device='cpu', opacity=1.0)\n"
        "page",
        "st.freeze(activations(), kinds='vv', presets=['all'], n_eigenvectors=4, device='cpu', opacity=1.0)",
    ]
    nbformat.write(notebook(*sources), tmp_path / "in.ipynb")
    papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", progress_bar=False, log_output=False)
    html, _ = HTMLExporter().from_filename(str(tmp_path / "out.ipynb"))
    # What nbconvert itself would load from elsewhere is not of interest here.
    html = "\n".join(line for line in html.splitlines() if "cdnjs" not in line and "unpkg" not in line)
    (tmp_path / "out.html").write_text(html)
    page = watched.page
    page.route(lambda url: url.startswith("http"), lambda route: route.abort())
    page.goto((tmp_path / "out.html").as_uri())
    frames = page.locator("iframe")
    assert frames.count() == 2
    for place, kind in enumerate(("qk", "vv")):
        frames.nth(place).scroll_into_view_if_needed()
        inside = frames.nth(place).content_frame
        inside.locator("body[data-ready]").wait_for()
        stage = inside.locator(".large .stage").first
        stage.scroll_into_view_if_needed()
        assert np.abs(cells(stage) - expected(answer(kind), 0, 1)).max() <= 3
    assert page.locator("[popover] img:visible").count() == 0
    watched.complaints.clear()  # of nbconvert's own page
    watched.requests.clear()


def test_a_notebook_that_jupyter_does_not_trust_shows_a_still_picture(chromium: Browser, jupyter: Jupyter) -> None:
    """As a notebook that a student was given is opened: no kernel has run, and no script may."""
    import nbformat
    from nbformat.v4 import new_output

    page_of = st.freeze(tree(), n_eigenvectors=4, device="cpu")
    made = notebook("page")
    made.cells[0].outputs = [new_output("display_data", data=page_of._repr_mimebundle_())]
    nbformat.write(made, jupyter.folder / "given.ipynb")
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.goto(jupyter.address("given.ipynb"), timeout=120_000)
    still = page.locator(".jp-OutputArea-output img")
    still.wait_for(timeout=120_000)
    assert still.is_visible()
    assert page.locator(".jp-OutputArea-output iframe").count() == 0
    assert (still.get_attribute("alt") or "").endswith("the images and their first eigenvectors")
    shot = pixels(still)
    assert shot.shape[1] > 300
    # The first picture, red above left, and at its right the colours of an eigenvector.
    height, width = shot.shape[0] // 2, shot.shape[1] // 3
    assert np.abs(shot[height // 4, width // 4] - [220, 40, 40]).max() < 25
    assert np.abs(shot[height // 4, width + width // 4] - [220, 40, 40]).max() > 25
