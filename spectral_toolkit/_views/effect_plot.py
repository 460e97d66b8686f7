"""What edits did: kept, moved and lost, one panel per property, edits across; and denoised images before and after."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import holoviews as hv
import numpy as np

from .._analysis.interventions.effects import EDITED, OUTCOMES
from .._compute.settings import computing
from .._render.colour import categorical, hex_colours
from ..errors import SpectralToolkitError
from .elements import rgb_element, styled
from .fitting import PAGE
from .notebook import load_bokeh
from .still_picture import has_still

if TYPE_CHECKING:
    import xarray as xr

INKS = dict(zip(OUTCOMES, hex_colours(categorical(len(OUTCOMES))), strict=True))
_WIDE = 0.26
"""Width of a bar, where two edits are 1 apart."""
_LETTER = 7
"""Pixels of a letter below the axis."""
_HEIGHT, _IMAGE = 320, 160


@computing
def effect_plot(effects: xr.Dataset) -> hv.Layout:
    """Draw what edits did to category and position, in one panel each, with edits (such as ranges of layers) across.

    Parameters
    ----------
    effects
        The Dataset that ``st.effects`` returned.

    Returns
    -------
    holoviews.Layout
        For every edit three bars, the shares that were kept, moved and lost, with their intervals; short lines across a
        bar are its controls. A property of which nothing could be compared has no panel.

    Raises
    ------
    SpectralToolkitError
        If the Dataset does not hold effects, or nothing could be compared.

    Examples
    --------
    >>> import xarray as xr
    >>> dims = ("edit", "control", "property", "outcome")
    >>> coords = (["all"], ["edited"], ["category"], ["kept", "moved", "lost"])
    >>> share = xr.DataArray(np.array([[[[0.2, 0.7, 0.1]]]]), coords, dims)
    >>> len(effect_plot(xr.Dataset({"share": share, "share_low": share, "share_high": share})))
    1
    """
    if set(getattr(getattr(effects, "share", None), "dims", ())) != {"edit", "control", "property", "outcome"}:
        raise SpectralToolkitError("These are no effects: give the Dataset that st.effects returned.")
    load_bokeh()
    shown = effects.sel(control=EDITED)
    names = [str(one) for one in effects["property"].values if np.isfinite(shown["share"].sel(property=one)).any()]
    if not names:
        raise SpectralToolkitError(
            "Nothing could be compared, because own and donor are the same everywhere: give other donors, or "
            "mirrored ones for positions."
        )
    panels = [_panel(effects.sel(property=name), name, PAGE // len(names) - 60) for name in names]
    return hv.Layout(panels).cols(len(names)).opts(shared_axes=False)  # pyright: ignore[reportReturnType]


def _panel(found: xr.Dataset, name: str, width: int) -> hv.Overlay:
    edits = [str(one) for one in found["edit"].values]
    named = [str(one) for one in found["control"].values if one != EDITED]
    controls = dict(zip(named, hex_colours(categorical(len(OUTCOMES) + len(named)))[len(OUTCOMES) :], strict=True))
    letters = max(6, round(width / len(edits) / _LETTER))
    bars, ends, lines, words = [], [], [], []
    for at, edit in enumerate(edits):
        for place, outcome in enumerate(OUTCOMES):
            one = found.sel(edit=edit, outcome=outcome)
            left = at + (place - 1.5) * _WIDE
            own = one.sel(control=EDITED)
            value, low, high = (float(own[key]) for key in ("share", "share_low", "share_high"))
            if np.isfinite(value):
                bars.append((left, 0.0, left + 0.95 * _WIDE, value, INKS[outcome], edit, outcome, value, low, high))
            if np.isfinite(low):
                ends.append((left + _WIDE / 2, low, left + _WIDE / 2, high))
            for control, ink in controls.items():
                level = float(one["share"].sel(control=control))
                if np.isfinite(level):
                    lines.append((left, level, left + 0.95 * _WIDE, level, ink, control, level))
    for height, legend in ((1.21, INKS), (1.09, {f"- {name}": ink for name, ink in controls.items()})):
        for place, (word, ink) in enumerate(legend.items()):
            words.append((len(edits) * place / len(legend) - 0.45, height, word, ink))
    corners = ["x0", "y0", "x1", "y1"]
    drawn = [
        styled(
            hv.Rectangles(bars, corners, ["ink", "edit", "outcome", "share", "low", "high"], group="Shares"),
            color="ink",
            line_color="white",
            tools=["hover"],
        ),
        styled(hv.Segments(ends, corners, group="Intervals"), color="#333333", line_width=1.5),
        styled(
            hv.Segments(lines, corners, ["ink", "control", "share"], group="Controls"),
            color="ink",
            line_width=3,
            tools=["hover"],
        ),
        styled(
            hv.Labels(words, ["x", "y"], ["text", "ink"], group="Outcomes"),
            text_color="ink",
            text_align="left",
            text_font_size="9pt",
        ),
    ]
    return styled(
        hv.Overlay(drawn),
        width=width,
        height=_HEIGHT,
        title=name,
        xlabel="edit",
        ylabel="share of those that differ",
        xticks=[(at, textwrap.fill(edit, letters)) for at, edit in enumerate(edits)],
        xlim=(-0.5, len(edits) - 0.5),
        ylim=(0.0, 1.3),
        toolbar=None,
        show_legend=False,
        hooks=[has_still],
    )


@computing
def before_after(plain: xr.DataTree, edited: xr.DataTree) -> hv.Layout:
    """Show the images that a denoiser predicts without and with an edit, one row an image.

    Parameters
    ----------
    plain, edited
        What ``st.intervene`` returned without and with edits; the first timestep and noise sample are shown.

    Returns
    -------
    holoviews.Layout

    Raises
    ------
    SpectralToolkitError
        If a tree holds no denoised images, or they are of different images.

    Examples
    --------
    >>> import xarray as xr
    >>> tree = xr.DataTree(xr.Dataset({"denoised": (("image", "y_px", "x_px", "rgb"), np.ones((1, 8, 8, 3)))}))
    >>> len(before_after(tree, tree))
    2
    """
    load_bokeh()
    pairs = []
    for name, tree in (("plain", plain), ("edited", edited)):
        if "denoised" not in getattr(tree, "data_vars", {}):
            raise SpectralToolkitError(
                f"{name} holds no denoised images: give what st.intervene returned for a denoiser whose prediction is "
                "known."
            )
        values = tree["denoised"]
        pairs.append(values.isel({dim: 0 for dim in ("timestep", "noise") if dim in values.dims}).to_numpy())
    if pairs[0].shape != pairs[1].shape:
        raise SpectralToolkitError(
            f"plain and edited hold images of shape {pairs[0].shape} and {pairs[1].shape}: give those of the same "
            "images."
        )
    shown = [
        styled(
            rgb_element((np.clip(image, 0, 1) * 255).round().astype(np.uint8), "Denoised"),
            frame_width=_IMAGE,
            frame_height=max(1, round(_IMAGE * image.shape[0] / image.shape[1])),
            title=title,
            invert_yaxis=True,
            xaxis=None,
            yaxis=None,
            toolbar=None,
            hooks=[has_still],
        )
        for images in zip(*pairs, strict=True)
        for title, image in zip(("before", "after"), images, strict=True)
    ]
    return hv.Layout(shown).cols(2).opts(shared_axes=False)  # pyright: ignore[reportReturnType]
