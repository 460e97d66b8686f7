"""The hierarchy of recursive cuts: it is kept as text with the labels, read as a Dataset, and cut elsewhere."""

from __future__ import annotations

import json
import math
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from ..._compute.arguments import number as checked_number
from ..._compute.settings import computing
from ..._io.activations import as_stack
from ..._io.images import IMAGE_HASH
from ..._io.pairing import image_hashes
from ...errors import RegionsError
from .cutting import Tree
from .embedding import most_tried, titles
from .label_maps import NO_SEGMENT

_Entry: TypeAlias = dict[str, Any]
"""One tree as JSON holds it."""


def written(
    trees: list[Tree], numbers: list[list[int]], labels: np.ndarray, names: list[str], hashes: list[str]
) -> str:
    """Write trees as JSON, one per image or one for all.

    Parameters
    ----------
    numbers
        The numbers of each tree's leaves.
    labels
        The number of every patch, (images, patches).
    names, hashes
        Names and hashes of the images.
    """
    entries = []
    for place, (tree, own) in enumerate(zip(trees, numbers, strict=True)):
        label = dict(zip(tree.leaves(), own, strict=True))
        images = slice(place, place + 1) if len(trees) == len(names) else slice(None)
        shown = labels[images][labels[images] != NO_SEGMENT]
        _, first, count = np.unique(shown, return_index=True, return_counts=True)
        entries.append(
            {
                "of": names[images],
                "sha256": hashes[images],
                "shown": np.stack([count, first], axis=1).tolist(),  # by number: patches, and the position of the first
                "parent": tree.parent,
                "cut": [None if math.isnan(cost) else cost for cost in tree.cut],
                "size": [len(cells) for cells in tree.cells],
                "label": [label.get(node, -1) for node in range(len(tree.parent))],
            }
        )
    return json.dumps(entries)


def limit_note(tree: str, threshold: float) -> str:
    """Write the note on images in which a part was left whole only because of the largest number of segments tried."""
    limited = []
    for entry in json.loads(tree):
        was_cut = set(entry["parent"])
        if any(cost is not None and cost < threshold and node not in was_cut for node, cost in enumerate(entry["cut"])):
            limited += titles(len(entry["of"]) > 1, entry["of"])
    return most_tried(limited)


@computing
def hierarchy(segments: xr.DataArray) -> xr.Dataset:
    """Return how segments made by recursive cuts came about.

    Parameters
    ----------
    segments
        The result of ``st.segment(..., method="cuts")``, which may have been read from a store.

    Returns
    -------
    xarray.Dataset
        Over ``(image, node)``, or ``(node)`` if all images were cut as one: ``parent`` (-1 for the whole, and where an
        image has fewer nodes than others), ``cut`` (the lowest normalised cut of the node, whether or not it was made;
        NaN for a single patch), ``size`` (patches, without isolated ones) and ``label`` (the number of the segment, -1
        for a node that was cut). Children come after their parents.

    Raises
    ------
    RegionsError
        If the segments were not made by cuts.

    Examples
    --------
    >>> import numpy as np, xarray as xr, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> graph = st.affinity(activations, "vv", device="cpu")
    >>> found = st.segment(st.solve(graph, 2), 2, method="cuts", graph=graph, threshold=2.0)
    >>> hierarchy(found).parent.values.tolist()
    [[-1, 0, 0]]
    """
    if _is_one_of_several(segments):
        return hierarchy(as_stack(segments)).isel(image=0, missing_dims="ignore")
    entries = _entries(segments)
    n_nodes = max(len(entry["parent"]) for entry in entries)
    variables: dict[str, np.ndarray] = {}
    for name, dtype, empty in (("parent", int, -1), ("cut", float, np.nan), ("size", int, 0), ("label", int, -1)):
        variables[name] = np.full((len(entries), n_nodes), empty, dtype=dtype)
        for image, entry in enumerate(entries):
            variables[name][image, : len(entry[name])] = [empty if value is None else value for value in entry[name]]
    if segments.attrs.get("scope") == "dataset":
        return xr.Dataset({name: ("node", values[0]) for name, values in variables.items()})
    return xr.Dataset(
        {name: (("image", "node"), values) for name, values in variables.items()},
        {name: segments[name].variable for name in ("image", IMAGE_HASH) if name in segments.coords},
    )


@computing
def recut(segments: xr.DataArray, threshold: float) -> xr.DataArray:
    """Return the segments that a lower threshold would have left, without solving anything again.

    Parameters
    ----------
    segments
        The result of ``st.segment(..., method="cuts")``.
    threshold
        Only cuts whose value is lower, as well as that of their parents, are kept. A threshold above that of the
        segments changes nothing.

    Returns
    -------
    xarray.DataArray
        As ``st.segment`` returns it, with the hierarchy that is left.

    Raises
    ------
    RegionsError
        If the segments were not made by cuts, or the threshold is not a number.

    Examples
    --------
    ``[recut(segments, t) for t in (0.2, 0.4, 0.6)]`` gives three depths of one hierarchy.
    """
    threshold = checked_number("threshold", threshold, finite=False, why=", usually from 0 to 2", error=RegionsError)
    if _is_one_of_several(segments):
        return recut(as_stack(segments), threshold).isel(image=0)
    entries = _entries(segments)
    joint = segments.attrs.get("scope") == "dataset"
    labels = segments.transpose("image", "y", "x").values.copy()
    found = segments["n_segments"].values.copy()
    kept_entries = []
    for index, entry in enumerate(entries):
        images = slice(None) if joint else slice(index, index + 1)
        kept, renumbered = _pruned(entry, threshold)
        labels[images] = np.append(renumbered, NO_SEGMENT)[labels[images]]  # -1, no segment, is the last entry
        found[images] = len(kept["shown"])
        kept_entries.append(kept)
    options, tree = json.loads(segments.attrs["options"]), json.dumps(kept_entries)
    own: dict[str, object] = {} if joint else {"tree": ("image", np.arange(len(kept_entries)))}
    # Where less is left than the largest number that is tried, that number is no longer the one chosen.
    notes = segments.attrs["notes"]
    if before := limit_note(segments.attrs["tree"], options["threshold"]):
        notes = notes.replace(before, limit_note(tree, min(threshold, options["threshold"]))).strip()
    return (
        segments.transpose("image", "y", "x")
        .copy(data=labels)
        .assign_coords({"n_segments": ("image", found), **own})
        .assign_attrs(
            tree=tree,
            options=json.dumps({**options, "threshold": float(threshold)}),
            notes=notes,
        )
    )


def _is_one_of_several(segments: object) -> bool:
    """Tell whether one image was selected, as by ``segments.isel(image=0)``; other inputs are refused elsewhere."""
    return isinstance(segments, xr.DataArray) and "image" not in segments.dims


def _pruned(entry: _Entry, threshold: float) -> tuple[_Entry, list[int]]:
    """Return the nodes that are kept, and the new label for every old one.

    Both are numbered by all patches, whichever are there.
    """
    parent, cut = entry["parent"], entry["cut"]
    was_cut = set(parent)
    open_ = {node for node in was_cut if node >= 0 and cut[node] < threshold}
    number: dict[int, int] = {}
    holder: dict[int, int] = {}
    node_of: dict[int, int] = {}
    for node, above in enumerate(parent):
        if above < 0 or (above in number and above in open_):
            number[node] = len(number)
            holder[node] = number[node]
        else:
            holder[node] = holder[above]
        if entry["label"][node] >= 0:
            node_of[entry["label"][node]] = holder[node]
    cells: dict[int, list[int]] = {}
    for label, (count, first) in enumerate(entry["shown"]):
        so_far = cells.get(node_of[label], [0, first])
        cells[node_of[label]] = [so_far[0] + count, min(so_far[1], first)]
    # They are numbered as by `by_size`.
    order = sorted(cells, key=lambda node: (-cells[node][0], cells[node][1]))
    name = {node: place for place, node in enumerate(order)}
    kept = list(number)
    return {
        **{name: entry[name] for name in ("of", "sha256") if name in entry},
        "shown": [cells[node] for node in order],
        "parent": [number.get(parent[node], -1) for node in kept],
        "cut": [cut[node] for node in kept],
        "size": [entry["size"][node] for node in kept],
        "label": [-1 if node in open_ else name.get(number[node], -1) for node in kept],
    }, [name[node_of[label]] for label in range(len(entry["shown"]))]


def _entries(segments: xr.DataArray) -> list[_Entry]:
    """Return the trees of the images that are there, in their order; one for all if they were cut as one."""
    text = getattr(segments, "attrs", {}).get("tree")
    if text is None:
        raise RegionsError("These segments carry no hierarchy: make them with st.segment(..., method='cuts').")
    entries = json.loads(text)
    alone = segments.attrs.get("scope") != "dataset"
    if "of" not in entries[0] or (alone and "tree" not in segments.coords):
        raise RegionsError(
            "These segments carry a hierarchy that does not name its images: they were made by an earlier version, or "
            "have lost their coordinate 'tree'; cut them again."
        )
    if alone:
        # The attribute holds the trees of all images, and the coordinate assigns them: it follows a selection.
        entries = [entries[place] for place in np.atleast_1d(segments["tree"].values)]
    if "image" in segments.coords:
        names = [str(name) for name in np.atleast_1d(segments["image"].values)]
        of = [dict(zip(entry["of"], entry.get("sha256", [""] * len(entry["of"])), strict=True)) for entry in entries]
        hashes = image_hashes(segments, names)
        for place, name in enumerate(names):
            own = of[place if alone else 0]
            if name not in own or (own[name] and hashes[place] and own[name] != hashes[place]):
                raise RegionsError(
                    f"The segments of {name!r} carry the hierarchy of {next(iter(own))!r}: their images were "
                    "renamed, or several results were combined; read or cut each result as st.segment returned it."
                )
    return entries
