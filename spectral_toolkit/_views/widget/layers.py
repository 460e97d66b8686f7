"""All layers as one compact matrix: a row for each layer, as long as its weight. The page's script listens to it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import ipywidgets as widgets

from ..._explorer import wording
from ..._explorer.state import MAX_WEIGHT
from ..._render.marks import short_names


class LayerMatrix(widgets.HTML):
    """Rows of layers that are set by a click, by a drag across several, or with the keyboard.

    The channel brings the weights to the page; the rows themselves are made once.
    """

    def __init__(self, layers: Sequence[str]) -> None:
        self._layers = list(layers)
        names = short_names(self._layers)
        rows = "".join(self._row(place, name) for place, name in enumerate(names))
        hint = html.escape(wording.TIPS["layers"])
        wide = min(12, max(map(len, names)))
        super().__init__(
            f'<div class="st-matrix" role="group" aria-label="Weights of the layers" title="{hint}" '
            f'style="--names:{wide}ch">{rows}</div>'
        )
        self.add_class("st-layers")

    def _row(self, place: int, name: str) -> str:
        layer = html.escape(self._layers[place], quote=True)
        return (
            f'<div class="st-layer" role="slider" tabindex="{-1 if place else 0}" data-layer="{layer}" '
            f'aria-label="Weight of layer {layer}" aria-valuemin="0" aria-valuemax="{MAX_WEIGHT:g}" '
            f'aria-valuenow="1" style="--weight:1"><span class="st-name">{html.escape(name)}</span>'
            '<span class="st-track"><i></i></span><span class="st-weight"></span></div>'
        )

    def told(self, weights: Mapping[str, float]) -> dict[str, float]:
        """What the page is told: the weight of every layer, 0 for those that are switched off."""
        return {layer: float(weights.get(layer, 0.0)) for layer in self._layers}
