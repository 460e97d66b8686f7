"""Computes beforehand all that a view without Python needs: results under several settings, and affinity rows.

Its counterpart ``_views/frozen_page`` draws them; nothing here knows of pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from .._affinity import LayerGraph, affinity
from .._affinity.presets import PRESETS, preset_weights
from .._affinity.table import kernels_of
from .._analysis.trust import Statement, outlying_masks, trust_statements
from .._compute.settings import computing
from .._io.activations import image_names, layer_names
from ..errors import SpectralToolkitError
from ..solvers import solve
from .patch_rows import Sources, all_joint_rows, all_layer_rows, choose_sources
from .state import State
from .view import Inputs, View, checked_options, offered, quantities_of
from .views import VIEWS

__all__ = ["Content", "Setting", "precompute"]


@dataclass(frozen=True)
class Setting:
    """One affinity under one choice of layers.

    Attributes
    ----------
    weights
        Weight of every layer.
    eig
        As ``st.solve`` returns it, for all images.
    rows
        Rows of the joint affinity, float32 (image, source, y, x), or (image, source, image, y, x) of images that were
        solved as one; None where none were requested.
    trust
        Trust statements about the result, image by image.
    data
        By view: what it shows besides the eigenvectors, image by image.
    """

    kind: str
    preset: str
    weights: dict[str, float]
    eig: xr.Dataset
    rows: np.ndarray | None
    trust: list[list[Statement]]
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Content:
    """Everything that a frozen page holds.

    Attributes
    ----------
    settings
        The settings, ordered by kind, and by preset within each kind.
    layer_rows
        By kind and layer: rows of the layer's own affinity, float32 (image, source, y, x), on at most 16 x 16 patches.
    sources
        The patches to which the rows belong; None where none were requested.
    options
        Values of the sliders that views have of their own.
    scope
        ``"image"``, or ``"dataset"`` where all images were solved as one.
    """

    activations: xr.DataTree
    images: list[str]
    layers: list[str]
    kinds: list[str]
    presets: list[str]
    settings: list[Setting]
    layer_rows: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    sources: Sources | None = None
    options: dict[str, float] = field(default_factory=dict)
    scope: str = "image"

    def views(self) -> list[View]:
        """The views that the page has."""
        n_components = self.settings[0].eig.sizes["component"]
        return [
            view
            for view in offered(quantities_of(self.activations, self.layers))
            if view.page is not None
            and n_components >= view.page_components
            and (view.page_data is None or view.name in self.settings[0].data)
        ]

    def state(self, setting: Setting, view: View, image: int) -> State:
        """The state of an explorer that shows the same, in full colours."""
        return State(
            image=image,
            scope=self.scope,
            affinity=setting.kind,
            kernel=setting.eig.attrs.get("kernel"),
            weights={name: weight for name, weight in setting.weights.items() if weight > 0},
            n_eigenvectors=setting.eig.sizes["component"],
            opacity=1.0,
            view=view.name,
            compare=False,
            options=checked_options(view, self.options),
        )

    def setting(self, kind: str, preset: str) -> Setting:
        """The setting of that name."""
        return self.settings[self.kinds.index(kind) * len(self.presets) + self.presets.index(preset)]


@computing
def precompute(
    activations: xr.DataTree,
    *,
    kinds: Sequence[str] = ("qk", "vv"),
    presets: Sequence[str] | Mapping[str, Mapping[str, float]] = PRESETS,
    kernel: str | Mapping[str, str] | None = None,
    n_eigenvectors: int = 10,
    regions: bool = True,
    n_segments: int | str = "auto",
    row_bytes: int = 4 * 2**20,
    tolerance: float = 1e-6,
    device: str = "auto",
    seed: int = 0,
    options: Mapping[str, float] | None = None,
    scope: str = "image",
) -> Content:
    """Compute everything that a view without Python can show.

    Parameters
    ----------
    activations
        Activations, as ``st.capture`` returns them.
    kinds
        Affinities, as ``st.affinity`` takes them.
    presets
        Names of `PRESETS`, or a mapping from any names to layer weights; layers that are not named have weight 0.
    kernel
        One kernel for all affinities, or a mapping from kind to kernel; None takes the default of each.
    n_eigenvectors, tolerance, seed
        As in ``st.solve``.
    regions
        Whether to find segments and instances too.
    n_segments
        As in ``st.segment``.
    row_bytes
        How many bytes the affinity rows may take, at one byte per number: this decides for how many patches they are
        kept. 0 keeps none.
    device
        The device that computes.
    options
        Values of the sliders that views have of their own.
    scope
        ``"image"``: every image is solved alone. ``"dataset"``: all images are solved as one.

    Returns
    -------
    Content

    Examples
    --------
    >>> import xarray as xr
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> content = precompute(activations, kinds=["vv"], presets=["all"], n_eigenvectors=2, device="cpu")
    >>> content.setting("vv", "all").rows.shape
    (1, 12, 3, 4)
    """
    kinds = _listed("kinds", kinds)
    layers = layer_names(activations)
    weights = _weights(presets, layers)
    graphs = {
        kind: affinity(activations, kind, kernel=chosen, device=device, scope=scope)
        for kind, chosen in kernels_of(kernel, kinds).items()
    }
    n_images = len(image_names(activations))
    outlying = outlying_masks(activations)
    grids = [(activations.children[layer].sizes["y"], activations.children[layer].sizes["x"]) for layer in layers]
    sources = choose_sources(grids, n_images, len(kinds), len(weights), row_bytes, across=scope == "dataset")
    settings = []
    for kind, graph in graphs.items():
        for preset, chosen in weights.items():
            weighted = graph.reweight(chosen)
            _check_number(n_eigenvectors, preset, weighted)
            eig = solve(weighted, n_eigenvectors, tolerance=tolerance, seed=seed)
            settings.append(
                Setting(
                    kind=kind,
                    preset=preset,
                    weights=chosen,
                    eig=eig,
                    rows=all_joint_rows(weighted, sources) if sources else None,
                    trust=[
                        trust_statements(eig)
                        if scope == "dataset"
                        else trust_statements(
                            eig.isel(image=index), outlying={name: mask[[index]] for name, mask in outlying.items()}
                        )
                        for index in range(n_images)
                    ],
                    data=_page_data(eig, n_segments, seed) if regions else {},
                )
            )
    content = Content(
        activations=activations,
        images=image_names(activations),
        layers=layers,
        kinds=kinds,
        presets=list(weights),
        settings=settings,
        layer_rows={kind: all_layer_rows(graph, sources) for kind, graph in graphs.items()} if sources else {},
        sources=sources,
        options=dict(options or {}),
        scope=scope,
    )
    for view in content.views():
        if view.data is not None and view.page == "drawn":
            for setting in settings:
                graph = graphs[setting.kind].reweight(setting.weights)
                found = [
                    view.data(_inputs(content, setting, view, image, graph, outlying)) for image in range(n_images)
                ]
                at = range(n_images) if scope == "dataset" else [0] * n_images
                setting.data[view.name] = [one[i] for one, i in zip(found, at, strict=True)] if view.common else found
    return content


def _inputs(
    content: Content,
    setting: Setting,
    view: View,
    image: int,
    graph: LayerGraph,
    outlying: Mapping[str, xr.DataArray],
) -> Inputs:
    one = {"image": [image]}
    eig = setting.eig.isel(one)
    return Inputs(
        content.state(setting, view, image),
        eig,
        content.activations.isel(one),
        lambda: graph,
        lambda: {name: mask.isel(one) for name, mask in outlying.items()},
        setting.eig if content.scope == "dataset" else eig,
    )


def _check_number(n_eigenvectors: int, preset: str, graph: LayerGraph) -> None:
    cells = max((member.n_cells for member in graph.members if graph.weights[member.name] > 0), default=0)
    if isinstance(n_eigenvectors, int) and 0 < cells <= n_eigenvectors:
        raise SpectralToolkitError(
            f"The layers of preset {preset!r} have {cells} patches at most, which carry {cells - 1} eigenvectors: ask "
            f"for fewer than n_eigenvectors={n_eigenvectors}, or leave the preset out with presets=[...]."
        )


def _page_data(eig: xr.Dataset, n_segments: int | str, seed: int) -> dict[str, np.ndarray]:
    return {view.name: view.page_data(eig, n_segments, seed) for view in VIEWS.values() if view.page_data is not None}


def _listed(name: str, values: str | Sequence[str]) -> list[str]:
    chosen = list(dict.fromkeys([values] if isinstance(values, str) else values))
    if not chosen:
        raise SpectralToolkitError(f"{name}=() is empty: give at least one.")
    return chosen


def _weights(
    presets: Sequence[str] | Mapping[str, Mapping[str, float]], layers: Sequence[str]
) -> dict[str, dict[str, float]]:
    if not isinstance(presets, Mapping):
        return {name: preset_weights(layers, name) for name in _listed("presets", presets)}
    if not presets:
        raise SpectralToolkitError("presets={} is empty: give at least one.")
    for name, weights in presets.items():
        if unknown := [layer for layer in weights if layer not in layers]:
            raise SpectralToolkitError(
                f"The preset {name!r} names {unknown[0]!r}, which is not a layer: use names among {', '.join(layers)}."
            )
    return {str(name): {layer: float(weights.get(layer, 0.0)) for layer in layers} for name, weights in presets.items()}
