"""An explorer on disk: its state, what has been solved, and where the activations are; nothing is captured again.

A zarr store with a group for every result. The activations stay where they are if they came from a store or a bundle,
and only their path is kept; those that were only in memory are written into the store, in full precision.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import xarray as xr

from .._io.activations import image_names, layer_names
from .._io.bundles import load_bundle
from .._io.images import Images, load_images
from .._io.outputs import local_path, write_store
from .._io.pairing import image_hashes
from ..errors import SpectralToolkitError, StoreError, first_line
from .session import Question, Session
from .state import State

_MARK = "spectral_toolkit_explorer"
_ACTIVATIONS = "activations"


@dataclass(frozen=True)
class Kept:
    """What a store holds, with the activations opened."""

    activations: xr.DataTree
    images: object
    expression: str | None
    state: State
    results: list[tuple[Question, xr.Dataset]]
    bundle: str | None


def save_session(path: Path, session: Session, state: State, expression: str | None, bundle: str | None) -> None:
    """Write the store, completely or not at all."""
    reference = bundle or source_of(session.activations)
    nodes: dict[str, xr.Dataset] = {}
    for number, (question, eig) in enumerate(session.solved()):
        nodes[f"answer_{number:04d}"] = eig.assign_attrs(explorer_question=json.dumps(asdict(question)))
    if reference is None:
        for node in session.activations.subtree:
            own = node.to_dataset(inherit=False)
            nodes[_ACTIVATIONS + ("" if node.parent is None else f"/{node.name}")] = own
    attrs = {
        _MARK: 1,
        "state": json.dumps(state.to_dict()),
        "activations": reference or "",
        "is_bundle": int(bundle is not None),
        "images": expression or "",
    }
    write_store(xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **nodes}), path)


def open_kept(path: object, activations: object = None) -> Kept:
    """Read what `save_session` wrote.

    Parameters
    ----------
    path
        The store.
    activations
        The path of the activations, or the activations themselves, where they are no longer where they were.
    """
    place = local_path(path)
    try:
        tree = xr.open_datatree(place, engine="zarr", consolidated=False)
    except Exception as error:  # whatever zarr raises for something that is no store
        raise StoreError(f"{str(place)!r} cannot be opened as an explorer ({first_line(error)}).") from error
    if _MARK not in tree.attrs:
        raise StoreError(f"{str(place)!r} holds no explorer: give what explorer.save wrote, or use from_bundle.")
    reference, bundle, images = str(tree.attrs["activations"]), None, None
    if isinstance(activations, xr.DataTree):
        found = activations
    elif activations is None and not reference:
        found = xr.open_datatree(place, engine="zarr", group=_ACTIVATIONS, consolidated=False)
    else:
        there = local_path(reference if activations is None else activations)
        if not there.exists():
            raise StoreError(
                f"The explorer was saved with activations in {str(there)!r}, which is not there: put them back, or "
                "give their present path as activations=."
            )
        if int(tree.attrs["is_bundle"]) and activations is None:
            opened = load_bundle(there)
            found, images, bundle = opened.activations, opened.pictures, reference
        else:
            found = xr.open_datatree(there, engine="zarr", consolidated=False)
    expression = str(tree.attrs["images"]) or None
    results = []
    for node in tree.children.values():
        if "explorer_question" not in node.attrs:
            continue
        values = json.loads(node.attrs["explorer_question"])
        weights = tuple((str(name), float(weight)) for name, weight in values.pop("weights"))
        eig = node.to_dataset(inherit=False).load()
        del eig.attrs["explorer_question"]
        _check(eig, found, str(place))
        results.append((Question(weights=weights, **values), eig))
    state = State.from_dict(json.loads(tree.attrs["state"]))
    return Kept(found, _images(expression) if images is None else images, expression, state, results, bundle)


def source_of(activations: xr.DataTree) -> str | None:
    """The store that activations were opened from, if it still holds the same."""
    path = activations.encoding.get("source")
    if not isinstance(path, str) or not Path(path).is_dir():
        return None
    try:
        there = xr.open_datatree(path, engine="zarr", consolidated=False)
        same = _facts(there) == _facts(activations)
    except Exception:  # something else is there by now
        return None
    return str(Path(path).resolve()) if same else None


def _facts(tree: xr.DataTree) -> tuple[object, ...]:
    names = image_names(tree)
    layers = layer_names(tree)
    return names, list(image_hashes(tree, names)), {name: _shapes(tree.children[name]) for name in layers}


def _shapes(node: xr.DataTree) -> Mapping[str, object]:
    return {str(name): (values.shape, values.dtype) for name, values in node.data_vars.items()}


def _check(eig: xr.Dataset, activations: xr.DataTree, place: str) -> None:
    names = [str(name) for name in eig["image"].values]
    known = image_names(activations)
    hashes = dict(zip(known, image_hashes(activations, known), strict=False))
    mine = dict(zip(names, image_hashes(eig, names), strict=False))
    if not set(names) <= set(known) or any(hashes.get(name, own) != own for name, own in mine.items()):
        raise SpectralToolkitError(
            f"{place!r} was saved with other images than these activations hold (it begins with {names[0]!r}): give "
            "those that were explored."
        )


def _images(expression: str | None) -> Images | None:
    """The images by their paths, where these are known and still there; otherwise those in the activations."""
    try:
        paths = ast.literal_eval(expression or "")
        return load_images(paths)
    except (ValueError, SyntaxError, SpectralToolkitError):
        return None
