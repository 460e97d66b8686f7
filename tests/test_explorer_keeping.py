"""What an explorer keeps: figures, bundles, the saved page and the code of what is shown."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explorer_fixtures import KeepingComm, buttons, capture_of, kept_comms, press
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._explorer.start import freezing_settings
from spectral_toolkit._render.tile import Tile
from spectral_toolkit._views.still_picture import bokeh_model
from spectral_toolkit._views.widget import Explorer, State, save
from spectral_toolkit._views.widget import saving as explorer_module
from spectral_toolkit._views.widget.tiles import TilePlace
from spectral_toolkit.errors import SpectralToolkitError


@pytest.mark.parametrize("view", ["component", "grid", "rgb", "segments", "instances", "norms"])
def test_saved_figures_are_what_is_shown(
    view: str, explorer: Explorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explorer.set(view=view, patch=(2, 3))
    drawn: list[Any] = []  # HoloViews takes seconds, and gives the SVG and the PDF the same

    def once(view: Any) -> Any:
        drawn[:] = drawn or [bokeh_model(view)]
        return drawn[0]

    monkeypatch.setattr(import_module("spectral_toolkit._views.save_figure"), "bokeh_model", once)
    picture: Any = Image.open(explorer.save_figure(str(tmp_path / "figure.png")))
    assert min(picture.size) > 250
    assert picture.convert("L").getextrema()[1] > picture.convert("L").getextrema()[0]
    svg = Path(explorer.save_figure(str(tmp_path / "figure.svg"))).read_text()
    assert "<svg" in svg
    assert svg.count("<image") >= 2
    assert Path(explorer.save_figure(str(tmp_path / "figure.pdf"))).read_bytes().startswith(b"%PDF")


def test_a_figure_that_is_there_is_kept(explorer: Explorer, tmp_path: Path) -> None:
    assert [Path(explorer.save_figure(str(tmp_path / "figure.png"))).name for _ in range(3)] == [
        "figure.png", "figure-2.png", "figure-3.png",
    ]  # fmt: skip


def test_a_saved_figure_shows_the_cut(explorer: Explorer, tmp_path: Path) -> None:
    explorer.set(compare=False, view="component", opacity=0.0, threshold=0.1)
    cut: Any = Image.open(explorer.save_figure(str(tmp_path / "cut.png"))).convert("RGB")
    drawn = Path(explorer.save_figure(str(tmp_path / "cut.svg"))).read_text()
    lines = explorer._pictures.figures[0].tiles[0].lines
    explorer.set(threshold=None)
    whole: Any = Image.open(explorer.save_figure(str(tmp_path / "whole.png"))).convert("RGB")
    changed = np.abs(np.asarray(cut).astype(int) - np.asarray(whole)).max(axis=2) > 0
    (place,) = explorer._pictures.figures[0].places
    for x0, y0, x1, y1 in lines:
        x, y = (x0 + x1) / 2 * place.width, (y0 + y1) / 2 * place.height + save._HEAD
        middle = np.asarray(cut)[round(y * save._SCALE), round(x * save._SCALE)]
        assert (middle == [0x1A] * 3).all()
    assert 0 < changed.mean() < 0.3, "and nothing but the lines"
    plain = Path(explorer.save_figure(str(tmp_path / "whole.svg"))).read_text()
    assert drawn.count("<path") - plain.count("<path") == 2 * len(lines)


def test_titles_of_narrow_panels_do_not_meet(tmp_path: Path) -> None:
    colours = np.zeros((2, 2, 4), dtype=np.uint8)
    title = "QK · softmax · eigenvector 2 · cannot be told apart from the third"
    panels = [
        save.SavedPanel([Tile(colours, np.zeros((2, 2)), None)], [TilePlace(0, 0, 60, 60, (2, 2))], (60, 60), title)
    ] * 2
    with Image.open(save.save_png(panels, tmp_path / "a.png")) as picture:
        ink: Any = (np.asarray(picture.convert("L"))[: 2 * 16] < 200).any(axis=0)
    assert not ink[-8:].any(), "nothing is cut off"
    middle = ink[: len(ink) // 2][::-1]
    assert not middle[:8].any(), "and the first title ends before the second begins"


def test_saving_says_what_is_wrong(explorer: Explorer, tmp_path: Path) -> None:
    with pytest.raises(SpectralToolkitError, match="does not exist"):
        explorer.save_figure(str(tmp_path / "nowhere" / "figure.png"))
    explorer.set(view="spectrum")
    with pytest.raises(SpectralToolkitError, match="is a chart"):
        explorer.save_figure(str(tmp_path / "figure.png"))
    press(explorer, "Save PNG")
    assert "is a chart" in explorer._done.value


def test_a_bundle_brings_back_what_was_seen(explorer: Explorer, tmp_path: Path) -> None:
    explorer.set(affinity="kk", component=3, patch=(1, 2), weights={"block.0": 1.0, "block.2": 0.5})
    path = explorer.save_bundle(tmp_path / "seen.zip")
    with kept_comms():
        other = Explorer.from_bundle(path, device="cpu")
        assert other.state == explorer.state
        np.testing.assert_allclose(other.eigenvectors.eigenvalue, explorer.eigenvectors.eigenvalue, atol=1e-2)
        other._path.value = str(tmp_path / "seen")
        other.set(affinity="vv", compare=False)
        press(other, "Load bundle")
        assert other.state == explorer.state
        assert "Opened" in other._done.value
        other._path.value = str(tmp_path / "nothing")
        press(other, "Load bundle")
        assert "st-error" in other._done.value
        other.close()


def test_settings_of_a_bundle_that_do_not_fit_are_left(explorer: Explorer, tmp_path: Path) -> None:
    for place, settings in enumerate([{"image": 99}, {"weights": [1]}, {"colour": 1}, {"patch": {"a": 1}}]):
        path = st.save_bundle(tmp_path / f"{place}.zip", explorer.activations, settings=settings)
        with kept_comms():
            other = Explorer.from_bundle(path, device="cpu")
            assert other.state == replace(State(), weights=dict.fromkeys(explorer._session.facts.layers, 1.0))
            other.close()


def test_the_frozen_page_begins_where_the_explorer_is(explorer: Explorer, tmp_path: Path) -> None:
    explorer.set(affinity="kk", kernel="rbf", component=3, weights={"block.0": 1.0, "block.2": 0.5}, image=1)
    settings: Any = freezing_settings(explorer.state, explorer._session)
    assert settings["start"] == {
        "image": 1,
        "kind": "kk",
        "preset": "chosen",
        "component": 3,
        "view": "component",
        "threshold": None,
        "smooth": False,
        "compare": True,
        "other_kind": "vv",
        "other_preset": "chosen",
        "patch": None,
    }
    assert settings["kernel"] == {"kk": "rbf"}
    explorer._path.value = str(tmp_path / "page")
    press(explorer, "Save HTML")
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    explorer.set(mask_outliers=True)
    press(explorer, "Save HTML")
    assert "Mask outlying tokens" in explorer._done.value


def test_a_page_is_made_while_the_explorer_goes_on(
    comms: type[KeepingComm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def slow(activations: Any, path: str, **settings: Any) -> None:
        assert go.wait(30)
        assert settings["start"]["kind"] == "qk", "what was shown when the button was pressed"
        Path(path).write_text("page")

    async def settled(holds: Callable[[], bool]) -> None:
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if holds():
                return
        pytest.fail("nothing happened")

    async def play() -> None:
        explorer = Explorer(capture_of(), device="cpu")
        monkeypatch.setattr(explorer_module, "freeze", slow)
        explorer._path.value = str(tmp_path / "page")
        press(explorer, "Save HTML")
        (button,) = [one for one in buttons(explorer) if one.description == "Saving HTML ..."]
        assert button.disabled
        assert "You can continue meanwhile" in explorer._done.value
        explorer.set(affinity="kk")
        await settled(lambda: not explorer.is_busy)
        assert explorer.eigenvectors.attrs["affinity"] == "kk"
        assert not (tmp_path / "page.html").exists()
        go.set()
        await settled(lambda: not button.disabled)
        assert button.description == "Save HTML"
        assert "page.html" in explorer._done.value
        monkeypatch.setattr(explorer_module, "freeze", lambda *_, **__: 1 / 0)
        press(explorer, "Save HTML")
        await settled(lambda: not button.disabled)
        assert "ZeroDivisionError" in explorer._done.value
        explorer.close()

    asyncio.run(play())


def test_code_is_shown_and_runs(explorer: Explorer) -> None:
    press(explorer, "Copy as code")
    assert explorer._code.value == explorer.code()
    assert "clipboard.writeText" in str(explorer._loader._output.outputs)
    compile(explorer.code(), "copied", "exec")
    explorer._controls.view.value = "segments"
    assert explorer._code.value == explorer.code(), "the open box says what is shown now"
    assert not explorer._done.value, "and nobody claims that it was copied"


def test_the_same_script_is_sent_to_the_page_again(explorer: Explorer) -> None:
    sent: list[str] = []
    explorer._loader._output.observe(lambda change: sent.append(str(change["new"])), "outputs")
    for _ in range(2):
        explorer._loader.run("copied()")
    explorer._loader._output.unobserve_all()
    assert sum("copied()" in markup for markup in sent) == 2
