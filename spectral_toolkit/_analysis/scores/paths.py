"""Where and what, for every layer separately and all jointly, with the controls that a reader needs beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from ..._affinity import affinity
from ..._affinity.dataset_graph import too_fine
from ..._affinity.features import KINDS
from ..._compute.arguments import number, whole
from ..._compute.settings import computing
from ..._io.activations import check_tree, layer_names
from ...errors import ActivationsError, SpectralToolkitError
from ...solvers import solve
from ...solvers.result import whole_groups
from .controls import pixel_tree, shuffled, untrained_tree
from .labels import EVERY_CELL_IGNORED, finest_grid, prepare_labels
from .score import PIXELS, SHUFFLED, STARTS, STARTS_OVERCLUSTERED, UNTRAINED, Scored
from .segments import OVERCLUSTERED
from .table import SCORES
from .variance import DEGREE, KNOTS, RIDGE, about_intervals, resamples

JOINT = "joint"


@computing
def pathways(
    activations: xr.DataTree,
    labels: object = None,
    *,
    kinds: str | Sequence[str] = ("qk", "vv"),
    n_eigenvectors: int = 15,
    kernel: str | None = None,
    ignore: object = None,
    controls: bool = True,
    model: object = None,
    n_bootstrap: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = True,
    device: str = "auto",
) -> xr.Dataset:
    """Measure how much position and how much category the eigenvectors over a dataset hold.

    Every layer separately and all layers jointly are solved as one problem over all images, for every kind of affinity;
    neighbours are searched for once per layer. Controls are further rows: raw pixels (flattened patches in place of
    tokens, the same row for every kind), the untrained model (the same architecture with new random weights, all layers
    jointly) and shuffled labels (the joint eigenvectors with labels of another image).

    Parameters
    ----------
    activations
        Activations of several images.
    labels
        Labels as :func:`spectral_toolkit.prepare_labels` takes or returns them; None scores position alone.
    kinds
        Kinds of affinity, as ``st.affinity`` takes them.
    n_eigenvectors
        The number of eigenvectors whose scores are averaged. Where the last of them and the next have nearly equal
        eigenvalues, the eigenvectors up to the eigengap before them are averaged, and ``attrs["notes"]`` says so.
    kernel
        A kernel for datasets; None takes the default, the nearest neighbours.
    ignore
        One or several labels that are left out like -1; see :func:`spectral_toolkit.prepare_labels`.
    controls
        Whether to add the rows of the controls.
    model
        The model of the activations, for the control ``untrained model``. Without it that row is NaN, and
        ``attrs["notes"]`` says so.
    n_bootstrap
        Number of resamples of the images for the intervals; eigenvectors and clusters stay the same.
    confidence
        The confidence of the intervals, in (0, 1).
    seed
        The seed of the bootstrap, the clusters, the shuffling, the untrained weights and the solver.
    progress
        Whether to show a progress bar.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Returns
    -------
    xarray.Dataset
        All scores are ``(kind, layer)``, in [0, 1] unless stated otherwise, each with ``<name>_low`` and
        ``<name>_high``, the percentile interval of the bootstrap over images, shifted by its bias; it is too narrow
        with fewer than 30 images, which ``attrs["notes"]`` then says, and NaN with 2. ``where``: the share of the total
        variance that position explains beyond category, (SS_position|category - df MSE) / (SS_total + MSE), at least 0,
        as a mean over eigenvectors; ``what``: the share that category explains beyond position; ``where_plain``,
        ``what_plain``, ``image_share``: omega squared of one factor, namely position, category, or the image that a
        patch is in; ``r2_position``: R^2 of a smooth regression on (x, y) (ridge on tensor products of cubic
        B-splines); ``matched_miou`` and ``ari`` in [-1, 1] of k-means with as many clusters as categories,
        ``overclustered_miou`` of 40 clusters, each as a mean over several starts of k-means, whose spread is part of
        the interval. Scores that were registered (``st.scores.register``) follow. The coordinate ``role (layer)`` is
        ``"layer"``, ``"joint"`` or ``"control"``. Write
        ``scores["where"]``, because xarray has a method ``scores.where``.

    Raises
    ------
    SpectralToolkitError
        If an argument is out of range, or the labels do not fit the capture.
    ActivationsError
        If there are fewer than 2 images.

    References
    ----------
    Zhang, Yunis & Maire, CVPR 2024, arXiv 2312.06716, section 4: eigenvectors over a dataset, k-means and mIoU.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> value = xr.DataArray(rng.normal(size=(3, 1, 3, 3, 4)), dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block": xr.Dataset({"value": value})})
    >>> scores = pathways(activations, kinds="vv", n_eigenvectors=2, controls=False, progress=False, device="cpu")
    >>> scores.layer.values.tolist()
    ['block', 'joint']
    """
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    _check(kinds, n_bootstrap, confidence, seed)
    check_tree(activations)
    activations, left_out = without_fine_layers(activations)
    layers = layer_names(activations)
    grid = finest_grid(activations)
    cells = None
    if labels is not None:
        cells = prepare_labels(activations, labels, grid=grid, ignore=ignore).to_numpy().reshape(-1, math.prod(grid))
    n_images = activations.children[layers[0]].sizes["image"]
    if n_images < 2:
        raise ActivationsError(
            "pathways compares patches over several images, but the activations hold 1: capture more."
        )
    if cells is not None and not (cells >= 0).any():
        raise SpectralToolkitError(EVERY_CELL_IGNORED)
    weights = resamples(n_images, n_bootstrap, seed)
    rows = [*layers, JOINT]
    if controls:
        rows += [PIXELS, UNTRAINED] + ([SHUFFLED] if cells is not None else [])
    names = scored_names(cells is not None)
    table = {name: np.full((3, len(kinds), len(rows)), np.nan) for name in names}
    notes = [about_intervals(n_images)]
    if left_out:
        notes.append(
            f"Layers of more than 32 x 32 patches are left out, as in the source paper: {', '.join(left_out)}."
        )
    kernel_used = str(kernel)

    def of(eig: xr.Dataset) -> Scored:
        return Scored(scored_vectors(eig)[0], cells, grid, weights, seed)

    def put(kinds_at: Sequence[int], row: str, scored: Scored) -> None:
        for name, found in all_scores(scored, confidence).items():
            for at in kinds_at:
                table[name][:, at, rows.index(row)] = found

    fresh, reason = None, ""
    if controls:
        fresh, reason = untrained_tree(activations, model, seed)
        notes.append(reason)
    options: _Options = {"kernel": kernel, "device": device}
    total = len(kinds) * (len(layers) + 1) + (0 if not controls else 1 + len(kinds) * (fresh is not None))
    with tqdm(total=total, desc="pathways", disable=not progress) as bar:
        for at, kind in enumerate(kinds):
            for row, eig in _solved(activations, kind, grid, n_eigenvectors, seed, options):
                scored = of(eig)
                put([at], row, scored)
                if row == JOINT and SHUFFLED in rows and cells is not None:
                    put([at], SHUFFLED, scored.relabelled(shuffled(cells, seed)))
                _note(notes, eig, kind, row)
                kernel_used = str(eig.attrs["kernel"])
                bar.update()
            if fresh is not None:
                _, eig = next(_solved(fresh, kind, grid, n_eigenvectors, seed, options, joint_only=True))
                put([at], UNTRAINED, of(eig))
                _note(notes, eig, kind, UNTRAINED)
                bar.update()
        if controls:
            if "pixels" in activations.data_vars:
                raw = pixel_tree(activations, grid)
                _, eig = next(_solved(raw, "token", grid, n_eigenvectors, seed, options, joint_only=True))
                put(range(len(kinds)), PIXELS, of(eig))
                _note(notes, eig, "token", PIXELS)
            else:
                notes.append(
                    f"There is no row '{PIXELS}', because the tree of activations holds no pixels, unlike one of "
                    "st.capture."
                )
            bar.update()

    roles = ["layer"] * len(layers) + ["joint"] + ["control"] * (len(rows) - len(layers) - 1)
    suffixes = ("", "_low", "_high")
    return xr.Dataset(
        {f"{n}{suffix}": (("kind", "layer"), table[n][i]) for n in names for i, suffix in enumerate(suffixes)},
        coords={"kind": list(kinds), "layer": rows, "role": ("layer", roles)},
        attrs={
            "n_images": n_images,
            "n_eigenvectors": n_eigenvectors,
            "grid": f"{grid[0]}x{grid[1]}",
            "kernel": kernel_used,
            "n_bootstrap": n_bootstrap,
            "confidence": float(confidence),
            "seed": seed,
            "clusters": f"k-means, mean of {STARTS} starts; {OVERCLUSTERED} clusters over-clustered, mean of "
            f"{STARTS_OVERCLUSTERED}",
            "r2_model": f"ridge, penalty {RIDGE:g}, tensor products of B-splines of degree {DEGREE}, {KNOTS} knots",
            "notes": " ".join(dict.fromkeys(note for note in notes if note)),
            **{f"activations_{name}": value for name, value in activations.attrs.items()},
        },
    )


def without_fine_layers(activations: xr.DataTree) -> tuple[xr.DataTree, tuple[str, ...]]:
    """Return the activations without the layers that a dataset leaves out, and the names of these layers."""
    cells = {
        layer: activations.children[layer].sizes["y"] * activations.children[layer].sizes["x"]
        for layer in layer_names(activations)
    }
    left_out = too_fine(cells)
    if not left_out:
        return activations, ()
    children = {name: node for name, node in activations.children.items() if name not in left_out}
    return xr.DataTree(activations.to_dataset(inherit=False), children=children), left_out


def interval(samples: np.ndarray, confidence: float, least: float, most: float) -> tuple[float, float]:
    """Return the percentile interval of all samples after the first, which is the estimate, corrected for bias.

    The interval is shifted by the distance of the samples' median from the estimate.
    An image that is drawn twice counts its patches twice, so that noise looks like structure and small shares are too
    high in every resample: without the shift, the interval of a share near zero lies above the estimate.
    """
    # Resamples that leave nothing to estimate from (for example all of one image) are not part of the interval.
    drawn = samples[1:][np.isfinite(samples[1:])]
    if not len(drawn) or not np.isfinite(samples[0]):
        return math.nan, math.nan
    low, middle, high = np.percentile(drawn, [50 * (1 - confidence), 50, 50 * (1 + confidence)]) - samples[0]
    return max(least, samples[0] + low - middle), min(most, samples[0] + high - middle)


def scored_names(has_labels: bool) -> list[str]:
    """Names of the scores of eigenvectors that can be computed with labels, or without them."""
    return [name for name, score in SCORES.items() if has_labels or not score.labelled]


def all_scores(scored: Scored, confidence: float) -> dict[str, tuple[float, float, float]]:
    """Every score of eigenvectors, with both ends of its interval."""
    found: dict[str, tuple[float, float, float]] = {}
    for name in scored_names(scored.labels is not None):
        score = SCORES[name]
        samples = np.asarray(score.samples(scored), float)
        if samples.shape != (len(scored.weights),):
            raise SpectralToolkitError(
                f"score {name!r} returned an array of shape {samples.shape}: expected one number for each of "
                f"{len(scored.weights)} samples."
            )
        found[name] = float(samples[0]), *interval(samples, confidence, score.low, score.high)
    return found


class _Options(TypedDict):
    kernel: str | None
    device: str


def _solved(
    activations: xr.DataTree,
    kind: str,
    grid: tuple[int, int],
    n_eigenvectors: int,
    seed: int,
    options: _Options,
    joint_only: bool = False,
) -> Iterator[tuple[str, xr.Dataset]]:
    """Solve jointly, then every layer separately; one graph is used, so that neighbours are searched for once."""
    graph = affinity(activations, kind, kernel=options["kernel"], scope="dataset", device=options["device"])
    yield JOINT, solve(graph, n_eigenvectors, grid=grid, seed=seed)
    for layer in () if joint_only else graph.layers:
        alone = graph.reweight({name: float(name == layer) for name in graph.layers})
        yield layer, solve(alone, n_eigenvectors, grid=grid, seed=seed)


def scored_vectors(eig: xr.Dataset) -> tuple[np.ndarray, str]:
    """Eigenvectors (image, position, component) that end at an eigengap, and a note on those left out for that."""
    vectors = eig["eigenvector"].transpose("image", "y", "x", "component").to_numpy()
    k = vectors.shape[-1]
    kept = whole_groups(eig["eigenvalue"].to_numpy(), eig["eigengap"].to_numpy())
    note = ""
    if kept < k:
        note = (
            f"Of {k} eigenvectors the first {kept} are scored: eigenvalues {kept + 1} to {k + 1} hardly differ, so "
            "that rounding decides which eigenvectors come first."
        )
    return vectors.reshape(len(vectors), -1, k)[..., :kept], note


def _note(notes: list[str], eig: xr.Dataset, kind: str, row: str) -> None:
    if not bool(eig["converged"].all()):
        notes.append(f"{kind}, {row}: {int((~eig['converged']).sum())} eigenvectors did not converge.")
    notes += [f"{kind}, {row}: {note}" for note in (scored_vectors(eig)[1], eig.attrs.get("notes")) if note]


def _check(kinds: tuple[str, ...], n_bootstrap: int, confidence: float, seed: int) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds or len(set(kinds)) < len(kinds):
        raise SpectralToolkitError(f"kinds={kinds!r} is not understood: use different ones of {', '.join(KINDS)}.")
    whole("n_bootstrap", n_bootstrap, 1, 2**32 - 1)
    whole("seed", seed, 0, 2**32 - 1)
    number("confidence", confidence, above=0, below=1)
