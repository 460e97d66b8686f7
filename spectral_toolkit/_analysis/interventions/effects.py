"""``effects``: what became of the patches of edited images, told by the nearest tokens of unedited ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from ..._compute.arguments import flag, number, shown, whole
from ..._compute.settings import computing
from ...errors import ActivationsError, SpectralToolkitError
from ..scores.controls import shuffled
from ..scores.paths import interval
from ..scores.variance import about_intervals, resamples
from .decoding import Decoded, GivenOut, seen_in, voted

OUTCOMES = ("kept", "moved", "lost")
NEARER = "nearer place"
"""The property that asks only which of two places is nearer to the decoded position."""
EDITED, BEFORE, SHUFFLED = "edited", "before", "donor shuffled"
"""What stands in the dimension ``control`` for the edit itself, for the images before it, and for donors of others."""
_TIE = 1e-9
"""Squared patches by which two distances must differ to be told apart: rounding decides nothing."""


@computing
def effects(
    plain: xr.DataTree,
    edited: xr.DataTree | Mapping[str, xr.DataTree],
    donors: xr.DataTree,
    *,
    reference: xr.DataTree,
    labels: Mapping[str, object] | None = None,
    controls: Mapping[str, object] | None = None,
    mirrored: bool = False,
    circular: bool = False,
    k: int = 15,
    n_bootstrap: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Tell how often patches of edited images stay the image's own, become the donor's, or neither.

    The category of a patch is that of most of the ``k`` nearest final tokens (by cosine) of the reference images, its
    position their mean. *Kept* is what equals the image's own, *moved* what equals the donor's, *lost* what is neither;
    only patches of which own and donor differ count. Positions are equal within one patch, and differ where they are
    more than two patches apart: this needs donors that are mirrored. Tokens seldom tell a position to one patch, so
    ``"nearer place"`` asks less of them: *kept* where the decoded position is nearer to the own place than to the
    donor's, *moved* where it is nearer to the donor's; where tokens tell nothing, each is about a half. Of a
    classifier, the class of the largest logit is compared as categories are, image by image.

    Parameters
    ----------
    plain, donors, reference
        What ``st.intervene`` returned without edits: for the images, for their donors, and for other images.
    edited
        What it returned with edits; several by name, such as one for every range of layers.
    labels
        Label maps of ``"images"``, ``"donors"`` and ``"reference"``, each as ``st.prepare_labels`` takes them. Without
        them only positions are decoded.
    controls
        What to show in the same table, by name: another edited tree, such as one without a random span; or (plain,
        edited, donors, reference) of another model, such as the untrained one. Where there are several edits, each of
        them by name, too. That before the edit, and that of donors shuffled among the images, are always there.
    mirrored
        Whether donors were mirrored (``st.exchange(..., mirrored=True)``).
    circular
        Whether positions are averaged on a circle, as where rotary positions begin again at the border.
    k
        Number of nearest tokens.
    n_bootstrap, confidence, seed
        Resamples of the pairs of images for the intervals, which hold this share of them, and the seed of all draws.

    Returns
    -------
    xarray.Dataset
        ``share (edit, control, property, outcome)`` with ``share_low`` and ``share_high``; ``compared (edit, control,
        property)``, the number of patches or images that count; and for denoisers ``denoised_to_own`` and
        ``denoised_to_donor (edit, control)``, root mean squares of the difference from the images that the unedited
        model predicts.

    Raises
    ------
    SpectralToolkitError
        If the trees do not belong together.

    Examples
    --------
    >>> root = {"final_token": (("image", "final_y", "final_x", "final_feature"), np.eye(9).reshape(1, 1, 9, 9))}
    >>> tree = xr.DataTree(xr.Dataset(root))
    >>> found = effects(tree, tree, tree, reference=tree, mirrored=True, k=1)
    >>> found["share"].sel(control="edited", property="position").values.tolist()
    [[1.0, 0.0, 0.0]]
    """
    several = {"edit": edited} if isinstance(edited, xr.DataTree) else dict(edited)
    if not several:
        raise SpectralToolkitError("edited is empty: give what st.intervene returned, or several of these by name.")
    turned, on_circle = flag("mirrored", mirrored), flag("circular", circular)
    whole("n_bootstrap", n_bootstrap, 1, 2**32 - 1)
    number("confidence", confidence, above=0, below=1)
    seed = whole("seed", seed, 0, 2**32 - 1)
    given = _labels_of(labels)
    own, donor, other = (
        seen_in(tree, name, given.get(key))
        for tree, name, key in (
            (plain, "plain", "images"),
            (donors, "donors", "donors"),
            (reference, "reference", "reference"),
        )
    )
    if own.tokens.shape[0] != donor.tokens.shape[0]:
        raise SpectralToolkitError(
            f"The number of donors is {donor.tokens.shape[0]} and that of images {own.tokens.shape[0]}: give one donor "
            "an image."
        )
    nearest = whole("k", k, 1)
    before = voted(own, other, k=nearest, circular=on_circle)
    # By edit and control: the plain tree, the edited one, the donors, how the patches were decoded.
    rows: dict[tuple[str, str], tuple[GivenOut, GivenOut, GivenOut, Decoded]] = {}
    for name, tree in several.items():
        after = seen_in(tree, f"edited[{name!r}]", None)
        found = voted(after, other, k=nearest, circular=on_circle)
        rows[name, EDITED] = own, after, donor, found
        rows[name, BEFORE] = own, own, donor, before
        rows[name, SHUFFLED] = own, after, donor.of_others(shuffled(np.arange(len(donor.tokens)), seed)), found
    for control, value in (controls or {}).items():
        for name, one in _by_edit(control, value, several).items():
            if isinstance(one, tuple):
                first, second, third, fourth = (
                    seen_in(tree, f"controls[{control!r}]", given.get(key))
                    for tree, key in zip(one, ("images", "", "donors", "reference"), strict=True)
                )
            else:
                first, second, third, fourth = own, seen_in(one, f"controls[{control!r}]", None), donor, other
            rows[name, control] = first, second, third, voted(second, fourth, k=nearest, circular=on_circle)
    weights = resamples(len(own.tokens), n_bootstrap, seed)
    return _table(rows, weights, turned, confidence, seed).assign_attrs(
        k=nearest,
        mirrored=int(turned),
        n_bootstrap=n_bootstrap,
        confidence=float(confidence),
        seed=seed,
        notes=about_intervals(len(own.tokens)),
    )


def _labels_of(labels: Mapping[str, object] | None) -> dict[str, object]:
    if labels is None:
        return {}
    wanted = {"images", "donors", "reference"}
    if not isinstance(labels, Mapping) or set(labels) != wanted:
        raise SpectralToolkitError(
            f"labels={shown(labels)} is not understood: give label maps of 'images', 'donors' and 'reference' by name."
        )
    return dict(labels)


def _by_edit(control: str, value: object, several: Mapping[str, object]) -> dict[str, object]:
    if isinstance(value, Mapping) and not isinstance(value, xr.DataTree):
        if not set(value) <= set(several):
            raise SpectralToolkitError(f"controls[{control!r}] names other edits than {', '.join(several)}.")
        return dict(value)
    if len(several) > 1:
        raise SpectralToolkitError(
            f"controls[{control!r}] is one tree for {len(several)} edits: give one for each, by its name."
        )
    return {next(iter(several)): value}


def _table(
    rows: Mapping[tuple[str, str], tuple[GivenOut, GivenOut, GivenOut, Decoded]],
    weights: np.ndarray,
    mirrored: bool,
    confidence: float,
    seed: int,
) -> xr.Dataset:
    edits, controls = (list(dict.fromkeys(key[axis] for key in rows)) for axis in (0, 1))
    properties = ["position", NEARER]
    first = next(iter(rows.values()))
    if first[0].labels is not None:
        properties.insert(0, "category")
    if all(one.logits is not None for row in rows.values() for one in row[:3]):
        properties.append("class")
    sides = ("", "_low", "_high")
    shares = np.full((3, len(edits), len(controls), len(properties), len(OUTCOMES)), np.nan)
    compared = np.zeros(shares.shape[1:4], np.int64)
    distances = {name: np.full((3, len(edits), len(controls)), np.nan) for name in ("own", "donor")}
    for (edit, control), (own, after, donor, found) in rows.items():
        at = edits.index(edit), controls.index(control)
        for number_, name in enumerate(properties):
            counts = _counts(name, own, after, donor, found, mirrored, seed if control == SHUFFLED else None)
            totals = counts.sum(0)  # (image,)
            compared[(*at, number_)] = totals.sum()
            for outcome, count in enumerate(counts):
                with np.errstate(invalid="ignore", divide="ignore"):
                    samples = (weights @ count) / (weights @ totals)
                shares[(slice(None), *at, number_, outcome)] = samples[0], *interval(samples, confidence, 0, 1)
        for name, one in (("own", own), ("donor", donor)):
            if after.denoised is not None and one.denoised is not None and after.denoised.shape == one.denoised.shape:
                squares = np.square(after.denoised - one.denoised).reshape(len(one.denoised), -1).mean(1)
                samples = np.sqrt((weights @ squares) / weights.sum(1))
                distances[name][(slice(None), *at)] = samples[0], *interval(samples, confidence, 0, 1)
    dims = ("edit", "control", "property", "outcome")
    data: dict[str, object] = {f"share{side}": (dims, shares[i]) for i, side in enumerate(sides)}
    data["compared"] = (dims[:3], compared)
    for name, values in distances.items():
        if np.isfinite(values[0]).any():
            data |= {f"denoised_to_{name}{side}": (dims[:2], values[i]) for i, side in enumerate(sides)}
    return xr.Dataset(data, {"edit": edits, "control": controls, "property": properties, "outcome": list(OUTCOMES)})


def _counts(
    name: str, own: GivenOut, after: GivenOut, donor: GivenOut, found: Decoded, mirrored: bool, seed: int | None
) -> np.ndarray:
    """How many patches, or whether the image, were kept, moved or lost: (outcome, image)."""
    if name == "class":
        is_own, is_donor, told = (_classes(one) for one in (own, donor, after))
        kept, moved, counted = told == is_own, told == is_donor, is_own != is_donor
    elif name == "category":
        if own.labels is None or donor.labels is None or found.category is None:
            raise ActivationsError("Categories cannot be compared, because label maps are missing: give all of them.")
        theirs = donor.labels[..., ::-1] if mirrored else donor.labels
        mine, theirs = own.labels[:, None], theirs[:, None]
        counted = (mine != theirs) & (mine >= 0) & (theirs >= 0) & np.ones_like(found.category, bool)
        kept, moved = found.category == mine, found.category == theirs
    else:
        places = np.moveaxis(np.indices(own.grid), 0, -1).astype(float)  # (y, x, 2)
        theirs = places[:, ::-1] if mirrored else places
        if seed is not None and mirrored:
            theirs = np.random.default_rng(seed).permutation(places.reshape(-1, 2)).reshape(places.shape)
        counted = np.broadcast_to(_apart(places, theirs, own.grid, found.circular) > 2, found.position.shape[:-1])
        if name == NEARER:
            to_own, to_donor = (
                np.square(_differences(found.position, one, own.grid, found.circular)).sum(-1)
                for one in (places, theirs)
            )
            kept, moved = to_own < to_donor - _TIE, to_donor < to_own - _TIE
        else:
            kept, moved = (_apart(found.position, one, own.grid, found.circular) <= 1 for one in (places, theirs))
    outcomes = np.stack([kept, moved & ~kept, ~kept & ~moved]) & counted
    return outcomes.reshape(len(OUTCOMES), len(own.tokens), -1).sum(-1).astype(float)


def _classes(seen: GivenOut) -> np.ndarray:
    assert seen.logits is not None
    return seen.logits.argmax(-1)


def _apart(one: np.ndarray, other: np.ndarray, grid: tuple[int, int], circular: bool) -> np.ndarray:
    """How many patches two positions (..., 2) are apart, along the axis along which they are farther."""
    return _differences(one, other, grid, circular).max(-1)


def _differences(one: np.ndarray, other: np.ndarray, grid: tuple[int, int], circular: bool) -> np.ndarray:
    """How many patches two positions are apart along each axis, (..., 2)."""
    distance = np.abs(one - other)
    return np.minimum(distance, np.array(grid) - distance) if circular else distance
