"""All patches of a result as a cloud of points, for notebooks and papers."""

from __future__ import annotations

from collections.abc import Sequence

import holoviews as hv
import numpy as np
import xarray as xr

from .._analysis.cloud import MOST, MOST_TSNE, checked_pair, checked_projection, how_many, places, shown_patches
from .._compute.arguments import choice, whole
from .._compute.settings import computing
from .._explorer.selection import chosen_mask, from_python
from .._io.activations import patch_centres
from .._render.colour import hex_colours
from .._render.patch_colours import COLOURINGS, colours_of_patches, mean_colours
from .._render.underlay import eigenvector_names, shown_pictures
from ..errors import SpectralToolkitError
from .elements import styled
from .notebook import load_bokeh
from .still_picture import has_still

_CHOSEN, _EDGE = "#d55e00", "#808080"


@computing
def cloud(
    images: object,
    eig: xr.Dataset,
    *,
    components: Sequence[int] | None = None,
    projection: str = "components",
    colour: str = "pixels",
    labels: object = None,
    segments: object = None,
    selected: object = None,
    most: int | None = None,
    seed: int = 0,
) -> hv.Points:
    """Draw every patch as a point, in two eigenvectors or by t-SNE of all of them.

    Parameters
    ----------
    images
        Anything ``st.load_images`` takes, or the activations; they are needed for ``colour="pixels"`` alone, and may be
        None otherwise.
    eig
        The result of ``st.solve``: of images that were solved as one, or of one image, as in ``eig.isel(image=[0])``.
    components
        The two eigenvectors, across and upwards; by default the first two.
    projection
        ``"components"``, or ``"tsne"`` for t-SNE of all eigenvectors (van der Maaten & Hinton 2008) by scikit-learn, in
        which distances between groups have no meaning. For UMAP or any other map, take the eigenvectors from ``eig``.
    colour
        ``"pixels"`` (the mean colour of the patch's own pixels), ``"position"``, ``"segment"``, ``"image"`` or
        ``"label"``.
    labels, segments
        Integers (image, y, x) on the grid of the result, as ``st.prepare_labels`` and ``st.segment`` return them, -1
        where there is none; each is needed by the colour of its name.
    selected
        Patches to emphasise: a DataFrame with image, y and x, a boolean DataArray, or a list of (image, row, column).
    most
        The largest number of points; of more patches a sample is shown, as many of every image, and the title says so.
        By default 12,000, and 2,000 for t-SNE.
    seed
        Of the sample and of t-SNE.

    Returns
    -------
    holoviews.Points
        One point per patch, with its ``image``, ``y``, ``x``, ``row``, ``column`` and ``colour``;
        :func:`spectral_toolkit.save_figure` draws it for a paper.

    Raises
    ------
    SpectralToolkitError
        If several images were solved alone, or an argument does not fit the result.

    Examples
    --------
    >>> import spectral_toolkit as st
    >>> activations = st.capture("scenes", st.scenes.sample(2, seed=0).pixels, layers=[0], progress=False)
    >>> eig = st.solve(st.affinity(activations, "vv", scope="dataset", kernel="shifted_cosine"), 3)
    >>> cloud(activations, eig, components=(2, 3), colour="position").shape
    (288, 8)
    """
    names = eigenvector_names(eig)
    if "image" in eig["eigenvalue"].dims and len(names) > 1:
        raise SpectralToolkitError(
            f"The {len(names)} images of this result were solved alone, so that their eigenvectors have nothing to do "
            "with each other: choose one with eig.isel(image=[0]), or solve with scope='dataset'."
        )
    by = choice("colour", colour, COLOURINGS)
    way = checked_projection(projection)
    known = eig["component"].values.tolist()
    pair = (known[0], known[min(1, len(known) - 1)]) if components is None else components
    pair = checked_pair("components", pair, eig)
    limit = whole("most", (MOST_TSNE if way == "tsne" else MOST) if most is None else most, 1)
    shape = (len(names), eig.sizes["y"], eig.sizes["x"])
    shown = shown_patches(shape[0], shape[1] * shape[2], limit, whole("seed", seed))
    titles = ["t-SNE, first axis", "t-SNE, second axis"]
    if way == "components":
        titles = [f"eigenvector {number}" for number in pair]
    at = places(eig, shown, pair, way, seed)
    colours = _colours(images, eig, by, shape, labels, segments).reshape(-1, 3)[shown]
    image, row, column = np.unravel_index(shown, shape)
    chosen = _chosen(selected, names, shape)[image, row, column]
    ink = np.where(chosen, _CHOSEN, _EDGE)
    load_bokeh()
    columns = {
        "first": at[:, 0],
        "second": at[:, 1],
        "image": np.asarray(names, dtype=object)[image],
        "y": patch_centres(shape[1])[row],
        "x": patch_centres(shape[2])[column],
        "row": row,
        "column": column,
        "colour": np.asarray(hex_colours(colours), dtype=object),
    }
    if chosen.any():
        columns |= {"edge": ink, "size": np.where(chosen, 8.0, 5.0), "chosen": chosen}
    kdims = [hv.Dimension("first", label=titles[0]), hv.Dimension("second", label=titles[1])]
    points = hv.Points(columns, kdims, list(columns)[2:], group="Patches")
    tips = [("image", "@image"), ("patch (row, column)", "@row, @column")]
    tips += [(title, f"${side}{{0.000}}") for title, side in zip(titles, "xy", strict=True)]
    return styled(
        points,
        color="colour",
        size="size" if chosen.any() else 5,
        line_color="edge" if chosen.any() else _EDGE,
        line_width=0.5,
        xlabel=titles[0],
        ylabel=titles[1],
        frame_width=440,
        frame_height=400,
        title=how_many(len(shown), int(np.prod(shape))),
        fontsize={"title": "9pt"},
        toolbar="above",
        active_tools=[],
        tools=["hover"],
        hover_tooltips=tips,
        show_legend=False,
        hooks=[has_still],
    )


def _colours(
    images: object, eig: xr.Dataset, by: str, shape: tuple[int, int, int], labels: object, segments: object
) -> np.ndarray:
    if by == "pixels":
        if images is None:
            raise SpectralToolkitError("colour='pixels' needs the images: give them first, or another colour.")
        means = np.stack([mean_colours(one.pixels, shape[1:]) for one in shown_pictures(images, eig)])
        return colours_of_patches(by, shape, means=means)
    given = {"segment": segments, "label": labels}.get(by)
    if by not in ("segment", "label"):
        return colours_of_patches(by, shape)
    argument = f"{by}s"
    if given is None:
        raise SpectralToolkitError(
            f"colour={by!r} needs {argument}: give integers (image, y, x), such as st."
            f"{'segment(eig)' if by == 'segment' else 'prepare_labels(activations, maps)'} returns."
        )
    numbers = np.asarray(given.transpose("image", "y", "x") if isinstance(given, xr.DataArray) else given)
    if numbers.shape != shape or numbers.dtype.kind not in "iub":
        raise SpectralToolkitError(
            f"{argument} have shape {numbers.shape} and type {numbers.dtype}, but the result needs integers of shape "
            f"{shape}: image, y and x."
        )
    return colours_of_patches(by, shape, **{argument: numbers.astype(int)})  # pyright: ignore[reportArgumentType]


def _chosen(selected: object, names: Sequence[str], shape: tuple[int, int, int]) -> np.ndarray:
    patches = np.asarray(from_python(selected, names, shape[1:], only=0 if shape[0] == 1 else None)).reshape(-1, 3)
    return np.stack([chosen_mask(patches, image, shape[1:], shape[1:]) for image in range(shape[0])])
