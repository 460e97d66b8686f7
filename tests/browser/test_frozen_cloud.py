"""The cloud of a frozen page in a real browser: a box chooses patches, a tap goes to one, and to other images."""

from __future__ import annotations

from pathlib import Path

import pytest
from watched_page import Watched

import spectral_toolkit as st

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def page_of_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frozen") / "cloud.html"
    st.freeze(
        "scenes",
        st.scenes.sample(8, seed=0).pixels,
        path,
        scope="dataset",
        kernel="shifted_cosine",
        kinds=["vv"],
        presets=["all", "late"],
        n_segments=4,
        progress=False,
    )
    assert path.stat().st_size < 10e6
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_cloud_chooses_and_goes_to_patches(watched: Watched, page_of_dataset: Path, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    watched.page.emulate_media(color_scheme=scheme)  # pyright: ignore[reportArgumentType]
    page = watched.open(page_of_dataset)
    page.wait_for_selector("body[data-ready]")
    page.get_by_role("tab", name="Cloud").click()
    cloud = page.locator("canvas.cloud").first
    cloud.wait_for()
    page.get_by_label("Coloured by").first.select_option("segment")
    box = page.locator("canvas.cloud").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 10, steps=3)
    page.mouse.up()
    page.get_by_text("of 1152 patches chosen").wait_for()
    assert page.locator(".side:visible .tiles figure").count() >= 1
    assert Axe().run(page).response["violations"] == []
    page.get_by_role("tab", name="Eigenvector").click()
    page.locator(".side:visible .large .stage").first.click()
    strip = page.locator(".connected button")
    assert strip.count() == 8
    wanted = strip.last.locator(".name").inner_text().split()[0]
    strip.last.click()
    chosen = page.locator(".thumbnails label:has(input:checked)")
    assert chosen.get_attribute("title") == wanted
    assert strip.count() == 8
