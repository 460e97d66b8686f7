"""Bundles: activations, eigenvectors, images and provenance in one file that opens without a model, GPU or network.

``containers.py`` reads and writes named bytes, ``arrays.py`` converts xarray objects to bytes and back, and
``contents.py`` defines the content of a bundle. A bundle may come from anybody: nothing in it is executed, and anything
that does not belong in a bundle is refused with a sentence.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr

from ..._compute.arguments import choice, number
from ..._compute.settings import computing
from ...errors import BundleError, SpectralToolkitError, first_line
from ..activations import image_names, layer_names
from ..images import Images, load_images
from ..outputs import local_path
from ..pairing import image_hashes, paired_pictures
from ..reprs import Described, few, shortened
from .arrays import from_files, memory_of, to_files
from .containers import damaged, read_members, refuse_existing, write_members
from .contents import (
    as_answers,
    build_tree,
    check_activations,
    check_eigenvectors,
    check_given,
    check_layer_names,
    layer_dataset,
)

__all__ = ["Bundle", "load_bundle", "save_bundle"]

_ACTIVATIONS, _EIGENVECTORS, _PICTURES = "activations", "eigenvectors", "pictures"
MAX_BYTES = 2 * 2**30
"""The most memory that a bundle may take by default."""


@dataclass(frozen=True)
class Bundle(Described):
    """The content of a bundle, all of it in memory.

    Attributes
    ----------
    activations
        Activations as ``st.capture`` returns them; numbers that were stored in half precision have their original type
        again, and the attribute ``rounded_to`` then records it.
    eigenvectors
        Results of ``st.solve`` by name, in the order in which they were given.
    pictures
        The images to show, as ``st.load_images`` returns them; None where neither images nor pixels were kept.
    settings
        The settings of a view, as plain JSON from outside: check them before use.
    provenance
        Attributes of the activations: model, weights, processor, versions.
    written_by
        Name and version of the program that wrote the bundle.
    """

    activations: xr.DataTree
    eigenvectors: dict[str, xr.Dataset] = field(default_factory=dict)
    pictures: Images | None = None
    settings: dict[str, object] = field(default_factory=dict)
    provenance: dict[str, object] = field(default_factory=dict)
    written_by: str = ""

    def _facts(self) -> dict[str, object]:
        return {
            "model": self.provenance.get("model"),
            "images": few(image_names(self.activations)),
            "layers": few(layer_names(self.activations)),
            "eigenvectors": few(list(self.eigenvectors)),
            "written by": self.written_by,
        }

    def _line(self) -> str:
        layers = len(layer_names(self.activations))
        answers = shortened(", ".join(self.eigenvectors) or "none", 60)
        return f"<Bundle: {len(image_names(self.activations))} images, {layers} layers, eigenvectors: {answers}>"


@computing
def save_bundle(
    path: str | os.PathLike[str],
    activations: xr.DataTree,
    *,
    eigenvectors: xr.Dataset | Mapping[str, xr.Dataset] | None = None,
    images: object = None,
    float16: bool = True,
    only: Literal["view", "all"] = "view",
    settings: Mapping[str, object] | None = None,
    max_side: int = 512,
    overwrite: bool = False,
) -> Path:
    """Write everything that a view needs to one zip file, or to a folder.

    Parameters
    ----------
    path
        A path that ends in ``.zip`` becomes one file; any other becomes a folder, which is a zarr store.
    activations
        Activations, as ``st.capture`` returns them.
    eigenvectors
        A result of ``st.solve``, or several by name, for the same images. They are kept to the last bit.
    images
        The original images, which are sharper than what the model saw; None keeps only the pixels of ``activations``.
    float16
        Whether to store activations in half precision, with about 3 digits, and record their original type. Values
        beyond half precision (above 65,504) are stored as they are.
    only
        ``"view"``: queries, keys, values, tokens and special keys, which is all that affinities need.
        ``"all"``: everything in ``activations``.
    settings
        The settings of the view, in types that JSON knows.
    max_side
        Longer side to which ``images`` are reduced, in pixels.
    overwrite
        Whether to replace an earlier bundle of that name. Anything else is never replaced.

    Returns
    -------
    pathlib.Path
        The path that was written, completely or not at all. Equal content gives equal bytes.

    Raises
    ------
    BundleError
        If something else is at ``path``, or it cannot be written.
    ActivationsError
        If ``activations`` or ``eigenvectors`` are not what they should be.

    Examples
    --------
    >>> import tempfile, spectral_toolkit as st
    >>> activations = st.capture("scenes", st.scenes.sample(1, seed=0).pixels, progress=False)
    >>> path = save_bundle(f"{tempfile.mkdtemp()}/scene.zip", activations)
    >>> load_bundle(path)
    <Bundle: 1 images, 6 layers, eigenvectors: none>
    """
    choice("only", only, ("view", "all"))
    target = _checked_path(path)
    refuse_existing(target, overwrite=overwrite)
    answers = as_answers(eigenvectors)
    check_given(activations, answers)
    layers, names = layer_names(activations), image_names(activations)
    root = activations.to_dataset(inherit=False)
    if "image" not in root.coords:
        root = root.assign_coords(image=names)
    groups = {_ACTIVATIONS: root}
    groups |= {
        f"{_ACTIVATIONS}/layer_{place:04d}": layer_dataset(activations, layer, only=only, float16=float16)
        for place, layer in enumerate(layers)
    }
    groups |= {f"{_EIGENVECTORS}/answer_{place:04d}": eig for place, eig in enumerate(answers.values())}
    shown = _shown(images, activations, max_side) if images is not None else {}
    groups |= {
        f"{_PICTURES}/picture_{place:04d}": xr.Dataset({"pixels": (("y_px", "x_px", "rgb"), pixels)})
        for place, pixels in enumerate(shown.values())
    }
    manifest = {
        "written_by": _program(),
        "layers": layers,
        "eigenvectors": list(answers),
        "pictures": list(shown),
        "settings": _checked_settings(settings),
    }
    write_members(target, manifest, to_files(groups), overwrite=overwrite)
    return target


@computing
def load_bundle(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Bundle:
    """Read a bundle from any origin, without a model, a GPU or a network.

    Parameters
    ----------
    path
        The zip file or folder that ``st.save_bundle`` wrote.
    max_bytes
        The most memory that the bundle and reading it may take; this is known from its declarations before its numbers
        are read, and never exceeded.

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        If it is not a bundle, is too large, has a later version, is damaged, or holds anything that does not belong in
        a bundle. Files are compared with their hashes, only numbers and text are read, and nothing is executed. A hash
        shows that a bundle is complete, not who made it.

    Examples
    --------
    >>> import tempfile
    >>> from spectral_toolkit.errors import BundleError
    >>> try:
    ...     load_bundle(tempfile.mkdtemp())
    ... except BundleError as error:
    ...     print("is not a bundle" in str(error))
    True
    """
    target = _checked_path(path)
    number("max_bytes", max_bytes, least=0, finite=False, why=" of bytes, such as 2 * 2**30", error=BundleError)
    manifest, described, chunks = read_members(target, max_bytes, memory_of)
    try:
        return _assembled(manifest, from_files(described, chunks))
    except Exception as error:  # xarray, pandas and NumPy each raise errors of their own
        raise damaged(target, first_line(error)) from error


def _assembled(manifest: dict[str, object], groups: dict[str, xr.Dataset]) -> Bundle:
    layers, keys, names = (_names(manifest, entry) for entry in ("layers", "eigenvectors", "pictures"))
    settings = manifest.get("settings", {})
    if not isinstance(settings, dict):
        raise ValueError("the settings are not a mapping")
    root = groups.get(_ACTIVATIONS)
    if root is None or not layers:
        raise ValueError("it holds no activations")
    kept = {name: _group(groups, f"{_ACTIVATIONS}/layer_{place:04d}") for place, name in enumerate(layers)}
    answers = {key: _group(groups, f"{_EIGENVECTORS}/answer_{place:04d}") for place, key in enumerate(keys)}
    shown = [_pixels(_group(groups, f"{_PICTURES}/picture_{place:04d}")) for place in range(len(names))]
    tree = build_tree(root, kept)
    check_activations(tree)
    if layer_names(tree) != layers:
        raise ValueError("a layer holds no queries, keys, values or tokens, or has another depth")
    images = image_names(tree)
    for key, eig in answers.items():
        check_eigenvectors(key, eig, tree)
    if names and names != images:
        raise ValueError("its images are not those of the activations")
    pictures = None
    if shown:
        known = xr.Dataset(coords={name: one for name, one in root.coords.items() if one.dims == ("image",)})
        pictures = load_images(
            [xr.DataArray(pixels[None], known.isel(image=[place]).coords, ("image", "y_px", "x_px", "rgb"))
             for place, pixels in enumerate(shown)]
        )  # fmt: skip
    elif "pixels" in tree.data_vars:
        pictures = load_images(tree)
    return Bundle(
        activations=tree,
        eigenvectors=answers,
        pictures=pictures,
        settings=settings,
        provenance={str(name): value for name, value in root.attrs.items()},
        written_by=str(manifest.get("written_by", ""))[:200],
    )


def _names(manifest: dict[str, object], entry: str) -> list[str]:
    names = manifest.get(entry, [])
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{entry} are not a list of names")
    if len(set(names)) != len(names):
        raise ValueError(f"{entry} cannot be called {str(names)[:60]}")
    for name in names:
        name.encode("utf-8")  # a lone surrogate cannot be written anywhere
    if entry == "layers":
        check_layer_names(names)
    return names


def _group(groups: Mapping[str, xr.Dataset], name: str) -> xr.Dataset:
    if name not in groups:
        raise ValueError(f"{name} is missing")
    return groups[name]


def _pixels(dataset: xr.Dataset) -> np.ndarray:
    pixels = dataset["pixels"]
    if pixels.dtype != np.uint8 or pixels.dims != ("y_px", "x_px", "rgb") or pixels.sizes["rgb"] != 3:
        raise ValueError(f"an image is {pixels.dtype} {dict(pixels.sizes)}")
    return pixels.values


def _shown(images: object, activations: xr.DataTree, max_side: int) -> dict[str, np.ndarray]:
    """Original images by their name in the activations, reduced to ``max_side``."""
    from PIL import Image

    names = image_names(activations)
    shown = {}
    pictures = paired_pictures(images, names, image_hashes(activations, names), "activations")
    for name, pixels in zip(names, pictures, strict=True):
        picture = Image.fromarray(pixels)
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        shown[name] = np.asarray(picture)
    return shown


def _checked_settings(settings: Mapping[str, object] | None) -> dict[str, object]:
    import json

    try:
        return json.loads(json.dumps(dict(settings or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise SpectralToolkitError(
            f"settings cannot be written as JSON ({first_line(error)}): use text, numbers, lists and mappings."
        ) from error


def _checked_path(path: object) -> Path:
    return local_path(path, error=BundleError)


def _program() -> str:
    from ... import __version__

    return f"spectral_toolkit {__version__}"
