"""The page of a study in a real browser: its numbers and colours are those beside it, links lead somewhere, it fits."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Browser
from watched_page import Watched, barriers, expected, pixels

import spectral_toolkit as st

pytestmark = pytest.mark.browser

STUDY = {
    "title": "A study for a browser",
    "models": "scenes",
    "pictures": {"made": {"scenes": {"n": 2, "seed": 1}}},
    "affinities": ["qk", "vv"],
    "layers": "late",
    "n_eigenvectors": 3,
    "device": "cpu",
    "scores": True,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> st.studies.StudyResult:
    return st.studies.run_study(STUDY, tmp_path_factory.mktemp("study") / "study.html", progress=False)


@pytest.fixture
def watched(watched: Watched) -> Iterator[Watched]:
    yield watched
    assert len(watched.requests) - sum(url.startswith("data:") for url in watched.requests) == 1  # the page itself


def test_the_page_shows_the_numbers_and_eigenvectors_beside_it(watched: Watched, study: st.studies.StudyResult) -> None:
    page = watched.open(study.html)
    record = json.loads(study.json.read_text())
    assert page.locator("h1").text_content() == STUDY["title"]
    rows = page.locator("table.summary tbody tr:not(.control)")
    assert rows.count() == len(record["cells"]) == 2
    heads = page.locator("table.summary thead th").all_text_contents()
    for place, cell in enumerate(record["cells"]):
        row = dict(zip(heads, rows.nth(place).locator("th, td").all_inner_texts(), strict=True))
        first = sorted(answer["eigenvalue"][0] for answer in cell["answers"])
        assert [float(word) for word in row["First eigenvalue"].split(" to ")] == pytest.approx(first, abs=1e-3)
        for name in ("where", "what"):
            assert float(row[name].split()[0]) == pytest.approx(cell["scores"]["values"][name]["value"], abs=1e-3)

    # Component 2 of every cell over the second picture, colour by colour.
    page.get_by_text("2", exact=True).locator("xpath=ancestor::label").click()
    page.locator("#opacity").fill("100")
    panels = page.locator("article").nth(1).locator(".panel:not(.original)")
    assert panels.count() == 2
    for place in range(2):
        colours = expected(study.eigenvectors(place), 1, 2)
        shot = pixels(panels.nth(place).locator(".stage"))
        steps = [
            ((np.arange(n) + 0.5) * size / n).astype(int) for n, size in zip(colours.shape, shot.shape, strict=False)
        ]
        assert np.abs(shot[np.ix_(steps[0], steps[1])] - colours).max() <= 3, study.cells[place]
    original = pixels(page.locator("article").nth(1).locator(".original .stage"))
    assert original.std(axis=(0, 1)).min() > 10


def test_links_lead_to_what_they_name(watched: Watched, study: st.studies.StudyResult) -> None:
    page = watched.open(study.html)
    for link in page.locator(".contents a").all():
        link.click()
        aim = page.locator(page.evaluate("location.hash"))
        assert aim.is_visible()
        assert link.text_content() == aim.text_content()
        page.wait_for_function(SEEN, arg=page.evaluate("location.hash"), timeout=5000)
    page.locator("table.summary").get_by_role("link", name="recipe").nth(1).click()
    code = page.locator(f"{page.evaluate('location.hash')} code")
    assert code.is_visible(), "a recipe that is folded away unfolds when its link is followed"
    assert "st.solve(" in code.inner_text()


# Whether a heading that a link led to is in sight: also when something sticks to the edge of the window.
SEEN = """(aim) => {
  const node = document.querySelector(aim), box = node.getBoundingClientRect();
  return node.contains(document.elementFromPoint(box.left + 3, box.top + box.height / 2));
}"""


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (800, "dark")])
def test_anybody_can_read_and_reach_it(
    chromium: Browser, study: st.studies.StudyResult, width: int, scheme: str
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # pyright: ignore[reportArgumentType]
    page = context.new_page()
    page.goto(study.html.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert barriers(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # The table may be wider than the page and scrolls in its frame: its words and the names of rows stay in sight.
    frame = page.locator(".wide").filter(has=page.locator("table.summary"))
    frame.evaluate("one => one.scrollLeft = one.scrollWidth")
    edges = frame.bounding_box()
    assert edges is not None
    kept = [page.locator("#summary-words"), *page.locator("table.summary tbody th").all()]
    for box in (one.bounding_box() for one in kept):
        assert box is not None
        assert box["x"] >= edges["x"] - 1
        assert box["x"] + box["width"] <= edges["x"] + edges["width"] + 1
    context.close()
