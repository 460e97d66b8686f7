"""Copied code, executed: what it draws is what the explorer shows, in every view and from wherever the capture came."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import holoviews as hv
import IPython.display
import numpy as np
import pytest
from explorer_fixtures import capture_of, kept_comms, press

import spectral_toolkit as st
from spectral_toolkit._explorer.view import offered
from spectral_toolkit._explorer.views import VIEWS
from spectral_toolkit._render.colour import hex_colours
from spectral_toolkit._views.widget import Explorer

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "alone, two layers": {"compare": False, "weights": {"block.0": 1.0, "block.2": 0.5}},
    "patch": {"patch": (2, 3), "image": 1},
    "heads of the coarse layer beside all": {"patch": (1, 2), "heads": True, "weights": {"block.3": 1.0}},
    "other layers": {"patch": (1, 2), "other_layers": "late", "mask_outliers": True},
    "dataset": {"scope": "dataset", "image": 1, "patch": (2, 5), "weights": {"block.0": 1.0, "block.1": 0.5}},
    "twice the same": {"other_affinity": "qk", "n_eigenvectors": 5},
}


def shown_by(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a cell of this code displays, in order."""
    displayed: list[Any] = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr(IPython.display, "display", displayed.append)
    program = ast.parse(code)
    last = program.body.pop()
    assert isinstance(last, ast.Expr), "the last line shows something"
    names: dict[str, Any] = {}
    exec(compile(program, "copied", "exec"), names)
    displayed.append(eval(compile(ast.Expression(last.value), "copied", "eval"), names))
    return displayed


def overlays(displayed: list[Any]) -> list[hv.Overlay]:
    return [overlay for view in displayed for overlay in (view if isinstance(view, hv.Layout) else [view])]


def element(overlay: hv.Overlay, *groups: str) -> Any:
    """The one element of one of these names."""
    (found,) = [one for one in overlay if one.group in groups]
    return found


def colours_of(overlay: hv.Overlay, group: str) -> np.ndarray:
    found = element(overlay, group)
    channels = [str(dimension) for dimension in found.vdims]
    return np.stack([found.dimension_values(channel, flat=False) for channel in channels], axis=-1)


def frames_of(overlay: hv.Overlay, grid: tuple[int, int]) -> list[tuple[int, int]]:
    for one in overlay:
        if one.group == "Marked":
            left, top = one.dimension_values(0), one.dimension_values(1)
            return sorted(zip(np.rint(top * grid[0]).astype(int), np.rint(left * grid[1]).astype(int), strict=True))
    return []


def check_tiles(overlays: list[hv.Overlay], tiles: list[Any], view: str) -> None:
    """Every overlay against a tile of the explorer: numbers, colours where they are made of them, frames, picture."""
    assert len(overlays) == len(tiles)
    for overlay, tile in zip(overlays, tiles, strict=True):
        if view == "rgb":
            fields = element(overlay, "Eigenvectors")
            values = np.stack([fields.dimension_values(place, flat=False) for place in (2, 3, 4)], axis=-1)
            drawn = colours_of(overlay, "Three")
            assert np.abs(drawn.astype(int) - tile.colours[..., :3]).max() <= 1
        else:
            fields = element(overlay, "Eigenvector", "Labels", "Instances", "Map")
            values = fields.dimension_values("value", flat=False)
        np.testing.assert_allclose(values, tile.values, atol=1e-6)
        if fields.group in ("Labels", "Instances"):
            assert (colours_of(overlay, "Colours") == tile.colours).all()
        if fields.group == "Map":
            assert np.abs(colours_of(overlay, "Colours").astype(int) - tile.colours).max() <= 1
        if view != "grid":  # there the explorer frames what was chosen
            assert frames_of(overlay, tile.values.shape[:2]) == sorted(tile.framed)
        assert (colours_of(overlay, "Picture") == tile.picture).all()


def check_chart(view: Any, explorer: Any) -> None:
    if explorer.state.view == "spectrum":
        source, drawn = explorer._pictures.charts[VIEWS["spectrum"]].chart._points.data, view.Eigenvalues.I
        names = ("x", "y", "number", "ink", "fill", "of")
    else:
        source, drawn = explorer._pictures.charts[VIEWS["layers"]].chart._bars.data, view.Cost.I
        names = ("left", "bottom", "right", "top", "ink", "name", "of")
    for name in names:
        found = drawn.dimension_values(name).tolist()
        expected = list(source[name])
        if isinstance(found[0], float):
            np.testing.assert_allclose(found, expected, atol=1e-9)
        else:
            assert found == expected
    assert hv.render(view, backend="bokeh").renderers


def check_cloud(view: Any, explorer: Any) -> None:
    drawn = list(view) if isinstance(view, hv.Layout) else [view]
    for points, (_, _, found) in zip(drawn, explorer._pictures.charts[VIEWS["cloud"]]._shown, strict=True):
        for side in (0, 1):
            np.testing.assert_allclose(points.dimension_values(side), found.at[:, side], atol=1e-5)
        assert points.dimension_values("colour").tolist() == hex_colours(found.colours)


def check_heads(view: Any, explorer: Any) -> None:
    matrix = explorer._pictures.charts[VIEWS["heads"]]._matrix
    assert (colours_of(view, "Maps") == matrix.colours).all()
    assert len(element(view, "Heads")) == len(matrix.cells)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    capture_of().to_zarr(folder / "activations.zarr", consolidated=False)
    return folder


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_code_of_every_view_draws_what_the_explorer_shows(
    setting: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept_comms():
        explorer = Explorer(capture_of(), device="cpu", synchronous=True)
        explorer.set(**SETTINGS[setting])
        for view in (one.name for one in offered(explorer._session.facts.quantities)):
            explorer.set(view=view)
            displayed = shown_by(explorer.code(), saved, monkeypatch)
            if view in ("spectrum", "layers"):
                check_chart(displayed.pop(0), explorer)
            if view == "cloud":
                check_cloud(displayed.pop(0), explorer)
            if view == "heads":
                check_heads(displayed.pop(0), explorer)
            found = overlays(displayed)
            figures = [one for one in explorer._pictures.figures if one.figure.visible]
            tiles = (
                []
                if view in ("spectrum", "layers", "cloud", "heads")
                else [tile for one in figures for tile in one.tiles]
            )
            check_tiles(found[: len(tiles)], tiles, view)
            if explorer.state.patch is not None:
                assert explorer._rows is not None
                below = [tile for one in explorer._rows.figures if one.figure.visible for tile in one.tiles]
                check_tiles(found[len(tiles) :], below, "rows")
        explorer.close()


def test_a_cut_and_smooth_colours_are_drawn(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kept_comms():
        explorer = Explorer(capture_of(), device="cpu", synchronous=True)
        explorer.set(compare=False, threshold=0.2, component=2)
        (overlay,) = overlays(shown_by(explorer.code(), saved, monkeypatch))
        (tile,) = explorer._pictures.figures[0].tiles
        drawn = colours_of(overlay, "Colours")
        assert ((drawn[..., 3] > 0) == (tile.colours[..., 3] > 0)).all()
        cut = element(overlay, "Cut")
        lines = np.stack([cut.dimension_values(place) for place in range(4)], axis=1)
        np.testing.assert_allclose(lines, tile.lines, atol=1e-12)
        explorer.set(threshold=None, smooth=True)
        (overlay,) = overlays(shown_by(explorer.code(), saved, monkeypatch))
        (tile,) = explorer._pictures.figures[0].tiles
        assert np.abs(colours_of(overlay, "Colours").astype(int) - tile.colours[..., :3]).max() <= 1
        explorer.close()


def test_after_a_bundle_was_loaded_the_code_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kept_comms():
        path = st.save_bundle(tmp_path / "it's.zip", capture_of(seed=1))
        explorer = Explorer(capture_of(), device="cpu", synchronous=True)
        explorer._path.value = str(path)
        press(explorer, "Load bundle")
        other = Explorer.from_bundle(path, device="cpu", synchronous=True)
        (tmp_path / "elsewhere").mkdir()
        for one in (explorer, other):
            one.set(view="segments", image=2)
            assert f"st.load_bundle({str(path)!r})" in one.code()
            assert "capture" not in one.code()
            found = overlays(shown_by(one.code(), tmp_path / "elsewhere", monkeypatch))
            check_tiles(found, [tile for figure in one._pictures.figures for tile in figure.tiles], "segments")
            one.close()


def test_code_that_starts_from_a_denoiser_shows_it_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    denoiser: Any = st.load_model("scenes-diffusion")
    model = denoiser.at(timesteps=[700], n_draws=2, seed=3)
    with kept_comms():
        explorer = Explorer(
            model, st.scenes.sample(1, seed=0).pixels, device="cpu", synchronous=True, progress=False, layers=[2]
        )
        explorer.set(view="segments", compare=False)
        found = overlays(shown_by(explorer.code(), tmp_path, monkeypatch))
        check_tiles(found, explorer._pictures.figures[0].tiles, "segments")
        explorer.close()
