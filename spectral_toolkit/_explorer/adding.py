"""Further images in an explorer that knows its model: only they are captured."""

from __future__ import annotations

import json
from dataclasses import replace

import xarray as xr

from .._capture import capture
from .._io.activations import layer_names
from .._io.images import load_images
from ..errors import SpectralToolkitError
from .recipe import picture_expression
from .session import Session
from .source import Source


def add_images(session: Session, images: object) -> Source:
    """Capture further images as the explorer's own were captured, and put them behind those.

    Raises
    ------
    SpectralToolkitError
        If the explorer has no model, compares two captures or has label maps, or if these are no images.
    """
    live = session.live
    if session.facts.sources > 1:
        raise SpectralToolkitError(
            "This explorer compares two captures, so images cannot be added: make another with "
            "st.Explorer([a, b], images) and all images."
        )
    if live is None:
        raise SpectralToolkitError(
            "This explorer was given activations and no model, so images cannot be added: make one with "
            "st.Explorer(model, images)."
        )
    if session.facts.has_labels:
        raise SpectralToolkitError(
            "This explorer has a label map for each of its images, so images cannot be added without one: make another "
            "with st.Explorer(model, images, labels=...) and all of them."
        )
    further = load_images(images)
    every = load_images([live.images, further])
    first = session.activations
    settings = {
        "layers": live.layers,
        "quantities": tuple(json.loads(first.attrs["quantities"])),
        "size": tuple(json.loads(first.attrs["image_size"])),
        "batch_size": first.attrs["batch_size"],
        "seed": first.attrs["seed"],
        "progress": False,
    }
    named = every[len(live.images) :]
    joined = _joined(first, capture(live.model, named, **settings))
    joined.attrs = {
        **first.attrs,
        "pictures_sha256": every.sha256,
        "names_sha256": every.names_sha256,
    }
    origin = picture_expression(list(every.paths)) if all(every.paths) else None
    return Source(joined, every, origin, replace(live, images=every))


def _joined(first: xr.DataTree, second: xr.DataTree) -> xr.DataTree:
    """The images of two captures by the same settings, in one tree."""

    def concat(one: xr.Dataset, other: xr.Dataset) -> xr.Dataset:
        # What does not depend on the image, such as windows or a common bias, has to be equal, and stays as it is.
        return xr.concat(
            [one, other],
            "image",
            data_vars="minimal",
            coords="minimal",
            compat="equals",
            join="exact",
            combine_attrs="override",
        )

    nodes = {"/": concat(first.to_dataset(), second.to_dataset())}
    nodes |= {
        name: concat(first.children[name].to_dataset(inherit=False), second.children[name].to_dataset(inherit=False))
        for name in layer_names(first)
    }
    return xr.DataTree.from_dict(nodes)
