"""The report: one HTML file that shows an answer to anyone with a browser, and says how to make it again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from .._compute.settings import computing
from .._explorer.recipe import figure_recipe, recipe, spelled
from .._io.images import load_images
from .._io.outputs import is_ours, writable_path, write_whole
from .._io.pairing import image_hashes, refuse_other_images
from .._render.colour import DIVERGING, css_gradient
from .._render.composite import check_opacity
from .._render.underlay import eigenvector_names
from ..errors import SpectralToolkitError
from .report_data import Caption, build_page, kind_of, provenance
from .templating import render

if TYPE_CHECKING:
    from .._models import Model

_NEEDED = ("eigenvalue", "residual", "converged", "eigengap", "degenerate_group", "isolated")


@computing
def report(
    model: Model | Any,
    images: Any,
    path: str | os.PathLike[str] = "report.html",
    *,
    affinities: Sequence[str] = ("qk", "vv"),
    kernel: str | Mapping[str, str] | None = None,
    heads: str = "mean",
    scope: str = "image",
    weights: Mapping[str, float] | Sequence[float] | None = None,
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
    """Take pictures through a model, solve for several affinities, and write one self-contained HTML page.

    Parameters
    ----------
    model
        As returned by ``st.load_model``, or anything it takes.
    images
        Anything ``st.load_images`` takes.
    path
        The file to write; its folder is made if need be, and a page of ours of that name is replaced.
    affinities
        Kinds to show side by side.
    kernel
        One kernel for all affinities, or a mapping from kind to kernel; None takes the default of each kind.
    heads, scope, weights
        As in ``st.affinity``; a list of weights goes by the order in which ``layers`` are given.
    layers, size
        As in ``st.capture``.
    n_eigenvectors, method, tolerance
        As in ``st.solve``.
    device
        Where the eigenproblems are solved: ``"auto"``, ``"cpu"``, ``"cuda"``, ... The model stays where it is.
    seed
        Equal seeds give equal numbers.
    opacity, max_side, title
        As in `render_report`.
    progress
        Whether to show progress bars.

    Returns
    -------
    pathlib.Path
        The file written, under 5 MB for eight pictures at the default settings.

    Examples
    --------
    >>> import tempfile, spectral_toolkit as st
    >>> pictures = st.scenes.sample(1, seed=0).pixels
    >>> path = f"{tempfile.mkdtemp()}/report.html"
    >>> st.report("scenes", pictures, path, n_eigenvectors=2, device="cpu", progress=False).name
    'report.html'
    """
    # Who only renders answers from a file waits for neither models nor solvers.
    from .._affinity import affinity
    from .._affinity.table import kernels_of
    from .._capture import capture
    from .._models import Model, load_model
    from ..solvers import solve

    kinds = [affinities] if isinstance(affinities, str) else list(affinities)
    if not kinds:
        raise SpectralToolkitError("affinities=() asks for no affinity: give at least one, such as ('qk', 'vv').")
    target, kernels = _target(path), kernels_of(kernel, kinds)
    pictures = load_images(images)
    loaded = model if isinstance(model, Model) else load_model(model)
    weights = _by_name(weights, layers, loaded)
    activations = capture(loaded, pictures, layers=layers, size=size, seed=seed, progress=progress)
    solved = {}
    for kind, chosen in kernels.items():
        graph = affinity(activations, kind, kernel=chosen, heads=heads, scope=scope, weights=weights, device=device)
        solved[kind] = solve(graph, n_eigenvectors, method=method, tolerance=tolerance, seed=seed)
    return render_report(
        activations,
        solved,
        target,
        images=pictures,
        title=title,
        opacity=opacity,
        max_side=max_side,
        pictures_source=picture_expression(images),
    )


def _by_name(weights: Any, layers: Any, model: Model) -> Any:
    """A list of weights for layers that are not named in order of depth, as a mapping."""
    from .._capture.plan import choose_layers

    if weights is None or isinstance(weights, Mapping) or not isinstance(layers, list | tuple):
        return weights
    named = [name for layer in layers for name in choose_layers(model, [layer])]
    if named == list(choose_layers(model, layers)):
        return weights
    if len(named) != len(weights) or len(set(named)) != len(named):
        raise SpectralToolkitError(
            f"weights has {len(weights)} entries for layers={layers!r}, {len(named)} layers: give one a layer, or a "
            "mapping from names to weights."
        )
    return dict(zip(named, weights, strict=True))


def render_report(
    activations: xr.DataTree | None,
    solved: Mapping[str, xr.Dataset],
    path: str | os.PathLike[str] = "report.html",
    *,
    images: Any = None,
    title: str | None = None,
    opacity: float = 0.7,
    max_side: int = 512,
    pictures_source: str | None = None,
) -> Path:
    """Write the page for answers that are already there.

    The page loads nothing: eigenvectors are PNG tiles of one pixel per patch, enlarged by the browser and laid over
    the pictures by it, so that opacity and component can be changed without Python. Equal input gives equal bytes.

    Parameters
    ----------
    activations
        The tree the answers come from: its attributes are the provenance, its pixels the pictures. None if it is
        gone; ``images`` must then be given, and the provenance is what the answers carry of it.
    solved
        Answers of ``st.solve`` by name, in the order to show them, all of the same images.
    path
        The file to write; its folder is made if need be, and a file of that name is replaced.
    images
        Pictures to show, if not the pixels of the tree: the originals are sharper.
    title
        Heading of the page; made from the model's name if None.
    opacity
        Of the eigenvectors when the page is opened, from 0 to 1.
    max_side
        Longer side of the embedded pictures in pixels.
    pictures_source
        A Python expression for the pictures, for the recipe on the page; None where nobody knows.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    SpectralToolkitError
        If there is no answer, or the answers are of different images.

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
    images: Any = None,
    title: str | None = None,
    opacity: float = 0.7,
    max_side: int = 512,
    pictures_source: str | None = None,
) -> str:
    """The page of `render_report` as text."""
    check_opacity(opacity)
    _check_answers(solved)
    if images is None and activations is None:
        raise SpectralToolkitError("There are no pictures to show: give activations with pixels, or images.")
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
        page=page,
        recipe=program,
        opacity=opacity,
        gradient=css_gradient(DIVERGING),
        kinds={key: kind_of(eig, key) for key, eig in solved.items()},
    )


def _figure(key: str, eig: xr.Dataset, attrs: Mapping[str, Any], pictures: str | None, image: str | None) -> str:
    return figure_recipe(key, eig, attrs, image, pictures=pictures)


def _check_answers(solved: Mapping[str, xr.Dataset]) -> None:
    if not solved:
        raise SpectralToolkitError("There is no answer to report: give at least one, such as {'qk': eig}.")
    names = {key: eigenvector_names(eig) for key, eig in solved.items()}
    for key, eig in solved.items():
        if missing := [name for name in _NEEDED if name not in eig]:
            raise SpectralToolkitError(
                f"The answer {key!r} lacks {', '.join(missing)}: give the Dataset as st.solve returned it."
            )
    first, *others = names
    for other in others:
        if names[other] != names[first]:
            raise SpectralToolkitError(
                f"The answers {first!r} and {other!r} are of different images ({len(names[first])} and "
                f"{len(names[other])}): solve both from the same activations."
            )
        hashes = image_hashes(solved[first], names[first]), image_hashes(solved[other], names[first])
        refuse_other_images(names[first], *hashes, (f"the answer {first!r}", f"the answer {other!r}"))


def _target(path: str | os.PathLike[str]) -> Path:
    target = writable_path(path)
    if target.is_dir():
        raise SpectralToolkitError(f"path={str(path)!r} is a folder: give the name of a file, such as 'report.html'.")
    if target.exists() and target.stat().st_size and not is_ours(target):
        raise SpectralToolkitError(
            f"path={str(path)!r} exists and is no page of spectral-toolkit, so it is left as it is: give another name."
        )
    return target


def picture_expression(images: Any) -> str | None:
    """Python for where the pictures came from, if that can be said."""
    if isinstance(images, str | os.PathLike):
        return repr(os.fspath(images))
    if isinstance(images, list | tuple) and images and all(isinstance(item, str | os.PathLike) for item in images):
        return spelled([os.fspath(item) for item in images])
    if isinstance(images, xr.DataArray) and _is_whole_sample(images):
        size = (images.sizes["y_px"], images.sizes["x_px"])
        return f"st.scenes.sample({images.sizes['image']}, seed={int(images.attrs['scenes_seed'])}, size={size}).pixels"
    return None


def _is_whole_sample(images: xr.DataArray) -> bool:
    """Whether these are the first scenes of a series, as ``scenes.sample`` gives them."""
    names = [f"scene_{place:04d}" for place in range(images.sizes.get("image", 0))]
    return "scenes_seed" in images.attrs and "image" in images.dims and images["image"].values.tolist() == names
