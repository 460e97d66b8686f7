"""The report: one HTML file that shows results to anyone with a browser, and says how to make them again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from .._analysis.tables import to_dataframe
from .._compute.settings import computing
from .._explorer.recipe import figure_recipe, recipe
from .._io.outputs import is_ours, writable_path, write_whole
from .._io.pairing import image_hashes, refuse_other_images
from .._render.composite import check_opacity
from .._render.underlay import eigenvector_names
from ..errors import SpectralToolkitError
from .downloads import addresses
from .report_data import Caption, build_page, kind_of, provenance
from .templating import render

if TYPE_CHECKING:
    from .._affinity.layer_graph import Weights
    from .._models import Model

_NEEDED = ("eigenvalue", "residual", "converged", "eigengap", "degenerate_group", "isolated")


@computing
def report(
    source: object,
    images: object = None,
    path: str | os.PathLike[str] = "report.html",
    *,
    kinds: str | Sequence[str] = ("qk", "vv"),
    kernel: str | Mapping[str, str] | None = None,
    heads: str = "mean",
    scope: str = "image",
    weights: Weights = None,
    layers: str | Sequence[str | int] = "all",
    size: int | tuple[int, int] | None = None,
    n_eigenvectors: int = 10,
    method: str = "exact",
    tolerance: float = 1e-6,
    device: str = "auto",
    seed: int = 0,
    opacity: float = 0.7,
    max_side: int = 512,
    title: str | None = None,
    progress: bool = True,
) -> Path:
    """Solve for several affinities and write one self-contained HTML page.

    Parameters
    ----------
    source
        Activations from ``st.capture``, a bundle from ``st.load_bundle``, or a model: what ``st.load_model`` returned,
        or anything it takes.
    images
        Anything ``st.load_images`` takes. With activations or a bundle it may be left out.
    path
        The file to write. Its folder is created if needed, and an earlier page of this package under that name is
        replaced.
    kinds
        Kinds of affinity to show side by side.
    kernel
        One kernel for all affinities, or a mapping from kind to kernel; None takes the default of each kind.
    heads, scope, weights
        As in ``st.affinity``; a list of weights follows the order in which ``layers`` are given.
    layers, size
        As in ``st.capture``. With activations, ``layers`` are names, and ``size`` was decided when they were captured.
    n_eigenvectors, method, tolerance
        As in ``st.solve``.
    device
        The device on which the eigenproblems are solved: ``"auto"``, ``"cpu"``, ``"cuda"``, ... The model stays on its
        own device.
    seed
        Equal seeds give equal numbers.
    opacity, max_side, title
        As in `render_report`.
    progress
        Whether to show progress bars.

    Returns
    -------
    pathlib.Path
        The file written, under 5 MB for eight images at the default settings.

    Examples
    --------
    >>> import tempfile, spectral_toolkit as st
    >>> pictures = st.scenes.sample(1, seed=0).pixels
    >>> path = f"{tempfile.mkdtemp()}/report.html"
    >>> st.report("scenes", pictures, path, n_eigenvectors=2, device="cpu", progress=False).name
    'report.html'
    """
    # Imported here, so that rendering results from a file does not wait for models and solvers.
    from .._affinity import affinity
    from .._affinity.features import KINDS
    from .._affinity.table import check_combination, kernels_of, several_kinds
    from .._explorer.source import open_source
    from .._models import Model, load_model
    from ..solvers import solve

    kinds = several_kinds(kinds)
    target, kernels = _target(path), kernels_of(kernel, kinds)
    for kind, chosen in kernels.items():
        check_combination(kind, chosen, heads, scope, {})
    is_captured = isinstance(source, xr.DataTree) or hasattr(source, "activations")
    if is_captured and size is not None:
        raise SpectralToolkitError(f"size={size!r} was decided when the activations were captured: leave it out.")
    if not is_captured and images is not None:
        source = source if isinstance(source, Model) else load_model(source)
        weights = _by_name(weights, layers, source)
    quantities = dict.fromkeys(name for kind in kinds for name in KINDS[kind])
    opened = open_source(
        source, images, quantities=tuple(quantities), layers=layers, size=size, seed=seed, progress=progress
    )
    # A model's layers were chosen by the capture; those of activations are chosen by name.
    named = layers if isinstance(layers, str) else [str(name) for name in layers]
    solved = {}
    for kind, chosen in kernels.items():
        graph = affinity(
            opened.activations,
            kind,
            kernel=chosen,
            heads=heads,
            scope=scope,
            weights=weights,
            layers=named if is_captured else "all",
            device=device,
        )
        solved[kind] = solve(graph, n_eigenvectors, method=method, tolerance=tolerance, seed=seed, progress=progress)
    return render_report(
        opened.activations,
        solved,
        target,
        images=opened.images,
        title=title,
        opacity=opacity,
        max_side=max_side,
        pictures_source=opened.expression,
    )


def _by_name(weights: Weights, layers: str | Sequence[str | int], model: Model) -> Weights:
    """A list of weights as a mapping, where the layers were not named in order of depth."""
    from .._capture.plan import choose_layers

    if weights is None or isinstance(weights, Mapping) or isinstance(layers, str):
        return weights
    named = [name for layer in layers for name in choose_layers(model, [layer])]
    if named == list(choose_layers(model, layers)):
        return weights
    if len(named) != len(weights) or len(set(named)) != len(named):
        raise SpectralToolkitError(
            f"weights has {len(weights)} entries for layers={layers!r}, {len(named)} layers: give one weight for each "
            "layer, or a mapping from names to weights."
        )
    return dict(zip(named, weights, strict=True))


@computing
def render_report(
    activations: xr.DataTree | None,
    solved: Mapping[str, xr.Dataset],
    path: str | os.PathLike[str] = "report.html",
    *,
    images: object = None,
    title: str | None = None,
    opacity: float = 0.7,
    max_side: int = 512,
    pictures_source: str | None = None,
) -> Path:
    """Write the page for results that were already computed.

    The page loads nothing. Eigenvectors are PNG tiles of one pixel per patch, which the browser enlarges and lays over
    the images, so that opacity and component can be changed without Python. Equal input gives equal bytes.

    Parameters
    ----------
    activations
        The tree from which the results were computed: its attributes are the provenance, its pixels the images. None if
        it is gone; ``images`` must then be given, and the provenance is what the results record of it.
    solved
        Results of ``st.solve`` by name, in the order to show them, all for the same images.
    path
        The file to write. Its folder is created if needed, and a file of that name is replaced.
    images
        Images to show instead of the pixels of the tree: the originals are sharper.
    title
        Heading of the page; None makes it from the model's name.
    opacity
        Opacity of the eigenvectors when the page is opened, from 0 to 1.
    max_side
        Longer side of the embedded images, in pixels.
    pictures_source
        A Python expression for the images, for the recipe on the page; None where their origin is not known.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    SpectralToolkitError
        If there is no result, or the results are for different images.

    Examples
    --------
    >>> import tempfile, spectral_toolkit as st
    >>> activations = st.capture("scenes", st.scenes.sample(1, seed=0).pixels, progress=False)
    >>> eig = st.solve(st.affinity(activations, "vv", device="cpu"), n_eigenvectors=2)
    >>> render_report(activations, {"vv": eig}, f"{tempfile.mkdtemp()}/vv.html").name
    'vv.html'
    """
    target = _target(path)
    html = report_html(
        activations,
        solved,
        images=images,
        title=title,
        opacity=opacity,
        max_side=max_side,
        pictures_source=pictures_source,
    )
    write_whole(target, html.encode())
    return target


def report_html(
    activations: xr.DataTree | None,
    solved: Mapping[str, xr.Dataset],
    *,
    images: object = None,
    title: str | None = None,
    opacity: float = 0.7,
    max_side: int = 512,
    pictures_source: str | None = None,
) -> str:
    """The page of `render_report` as text."""
    check_opacity(opacity)
    _check_answers(solved)
    if images is None and activations is None:
        raise SpectralToolkitError("There are no images to show: give activations with pixels, or images.")
    first = next(iter(solved.values()))
    shown = images if images is not None else activations
    attrs = provenance(activations, first)
    heading = title or f"What {attrs.get('model') or 'the model'} groups together"
    captions = {key: Caption(recipe=partial(_figure, key, eig, attrs, pictures_source)) for key, eig in solved.items()}
    page = build_page(activations, solved, shown, heading, max_side, captions=captions)
    program = recipe(
        solved,
        attrs,
        title=heading,
        pictures=pictures_source,
        appearance={"opacity": opacity, "max_side": max_side},
    )
    return render(
        "report",
        title=heading,
        page=page,
        recipe=program,
        opacity=opacity,
        kinds=[kind_of(eig, key) for key, eig in solved.items()],
        downloads=addresses(_tables(solved)),
    )


def _tables(solved: Mapping[str, xr.Dataset]) -> dict[str, tuple[str, str]]:
    """The eigenvalues and the layers of all results as CSV, with the name of each result in the first column."""
    import pandas as pd

    files = {}
    for of in ("eigenvalues", "layers"):
        frames = []
        for key, eig in solved.items():
            frame = to_dataframe(eig, of)
            frame.insert(0, "result", key)
            frames.append(frame)
        text = pd.concat(frames, ignore_index=True).to_csv(index=False, lineterminator="\n")
        files[f"report-{of}.csv"] = ("text/csv", text)
    return files


def _figure(key: str, eig: xr.Dataset, attrs: Mapping[str, object], pictures: str | None, image: str | None) -> str:
    return figure_recipe(key, eig, attrs, image, pictures=pictures)


def _check_answers(solved: Mapping[str, xr.Dataset]) -> None:
    if not solved:
        raise SpectralToolkitError("There is no result to report: give at least one, such as {'qk': eig}.")
    names = {key: eigenvector_names(eig) for key, eig in solved.items()}
    for key, eig in solved.items():
        if missing := [name for name in _NEEDED if name not in eig]:
            raise SpectralToolkitError(
                f"The result {key!r} lacks {', '.join(missing)}: give the Dataset as st.solve returned it."
            )
    first, *others = names
    for other in others:
        if names[other] != names[first]:
            raise SpectralToolkitError(
                f"The results {first!r} and {other!r} are for different images ({len(names[first])} and "
                f"{len(names[other])}): solve both from the same activations."
            )
        hashes = image_hashes(solved[first], names[first]), image_hashes(solved[other], names[first])
        refuse_other_images(names[first], *hashes, (f"the result {first!r}", f"the result {other!r}"))


def _target(path: str | os.PathLike[str]) -> Path:
    target = writable_path(path)
    if target.is_dir():
        raise SpectralToolkitError(f"path={str(path)!r} is a folder: give the name of a file, such as 'report.html'.")
    if target.exists() and target.stat().st_size and not is_ours(target):
        raise SpectralToolkitError(
            f"path={str(path)!r} exists and is not a page of spectral-toolkit, so it was left alone: give another name."
        )
    return target
