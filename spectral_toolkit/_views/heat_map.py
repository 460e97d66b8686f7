"""Two panels, where and what: one row per layer, one column per kind, with the joint row and the controls below."""

from __future__ import annotations

from typing import TYPE_CHECKING

import colorcet
import holoviews as hv
import numpy as np

from .._analysis.scores.table import SCORES
from .._compute.settings import computing
from .._render.marks import short_names
from ..errors import SpectralToolkitError
from .fitting import PAGE, fits_as_high
from .notebook import load_bokeh
from .still_picture import has_still

if TYPE_CHECKING:
    import xarray as xr

_COLOURS = colorcet.palette["fire"][::-1][:205]  # from light to red: numbers remain readable because no value is black
_DARK = 0.55
_ROW, _COLUMN, _LEAST_COLUMN = 26, 84, 44
_MARGIN = 150  # pixels for the names of layers and for a colour bar


@computing
def heat_map(scores: xr.Dataset, *, names: tuple[str, ...] | None = None) -> hv.Layout:
    """Draw scores of :func:`spectral_toolkit.pathways` as heat maps side by side.

    Parameters
    ----------
    scores
        The Dataset that ``st.pathways`` returned.
    names
        Which scores to draw, in one panel each; None draws ``where`` and ``what``, or ``where_plain`` alone where there
        were no labels. Scores that were registered are drawn by name.

    Returns
    -------
    holoviews.Layout
        One panel per score on the scale of its range, 0 to 1 for most, with the number in every field and its interval
        under the cursor; a control that was not computed reads "-".

    Raises
    ------
    SpectralToolkitError
        If the Dataset does not hold these scores.

    Examples
    --------
    >>> import xarray as xr
    >>> scores = xr.Dataset({"where": (("kind", "layer"), [[0.9, 0.8]])}, {"kind": ["qk"], "layer": ["block", "joint"]})
    >>> len(heat_map(scores, names=("where",)))
    1
    """
    load_bokeh()
    if names is None:
        held = getattr(scores, "data_vars", ())
        names = tuple(
            name
            for name, score in SCORES.items()
            if score.headline and name in held and score.stands_in_for not in held
        )
    for name in names or ("where_plain",):
        if set(getattr(getattr(scores, "data_vars", {}).get(name), "dims", ())) != {"kind", "layer"}:
            raise SpectralToolkitError(
                f"The scores hold no {name!r} of dimensions (kind, layer): give the Dataset of st.pathways, and names "
                "that it holds."
            )
    column = (PAGE // len(names) - _MARGIN) // max(1, scores.sizes["kind"])
    column = max(_LEAST_COLUMN, min(_COLUMN, column))
    layout = hv.Layout([_panel(scores, name, column, has_bar=name == names[-1]) for name in names]).cols(len(names))
    return layout.opts(shared_axes=False)  # pyright: ignore[reportReturnType]


def _panel(scores: xr.Dataset, name: str, column: int, has_bar: bool) -> hv.Overlay:
    values = scores[name].transpose("kind", "layer")
    least, most = _range(name, values.values)
    kinds, rows = ([str(label) for label in scores[axis].values] for axis in ("kind", "layer"))
    shown = _row_names(scores, rows)
    ends = [f"{name}_{side}" if f"{name}_{side}" in scores else name for side in ("low", "high")]
    low, high = (scores[end].transpose("kind", "layer").values for end in ends)
    cells = [
        (kind, shown[row], float(values[k, row]), float(low[k, row]), float(high[k, row]))
        for row in range(len(rows))
        for k, kind in enumerate(kinds)
    ]
    kept = [cell for cell in cells if np.isfinite(cell[2])]
    dimensions = [hv.Dimension("kind", values=kinds), hv.Dimension("layer", values=shown)]
    picture = hv.HeatMap(kept, dimensions, [name, "low", "high"]).opts(
        cmap=_COLOURS,
        clim=(least, most),
        tools=["hover"],
        colorbar=has_bar,
        clabel="",  # the panel shows it
        xaxis="top",
        invert_yaxis=True,
        frame_width=column * len(kinds),
        frame_height=_ROW * len(rows),
        toolbar=None,
        title=name.replace("_", " "),
        xlabel="",
        ylabel="",
        line_color="white",
    )
    text = [(kind, row, f"{value:.3f}" if np.isfinite(value) else "-", value) for kind, row, value, *_ in cells]
    layers = [picture]
    for dark in (False, True):
        limit = least + _DARK * (most - least)
        part = [(kind, row, label) for kind, row, label, value in text if (value > limit) == dark]
        if part:
            layers.append(
                hv.Labels(part, dimensions, "text").opts(text_color="white" if dark else "black", text_font_size="9pt")
            )
    return hv.Overlay(layers).opts(backend="bokeh", hooks=[fits_as_high, has_still])  # pyright: ignore[reportReturnType]


def _range(name: str, values: np.ndarray) -> tuple[float, float]:
    """The range of a score; where it has no end, that of its values."""
    score = SCORES.get(name)
    ends = (0.0, 1.0) if score is None else (score.low, score.high)
    kept = values[np.isfinite(values)] if np.isfinite(values).any() else np.array([0.0, 1.0])
    low, high = (end if np.isfinite(end) else float(of()) for end, of in zip(ends, (kept.min, kept.max), strict=True))
    return low, high if high > low else low + 1.0


def _row_names(scores: xr.Dataset, rows: list[str]) -> list[str]:
    """Names of layers without the parts that they share; the joint row and the controls keep their names."""
    if "role" not in scores.coords:
        return rows
    roles = [str(role) for role in scores["role"].values]
    short = iter(short_names([row for row, role in zip(rows, roles, strict=True) if role == "layer"]))
    return [next(short) if role == "layer" else row for row, role in zip(rows, roles, strict=True)]
