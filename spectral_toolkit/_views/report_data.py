"""The content of a report as plain data, made from the results here and drawn by the template without computation."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from .._affinity.table import KERNELS
from .._analysis.trust import Statement, trust_statements
from .._io.activations import layer_names
from .._render.composite import colour_field
from .._render.marks import LayerBar, SpectrumMarks, layer_bars, picture_uri, spectrum, tile_uri
from .._render.titles import flags, statistic
from .._render.underlay import ShownPicture, shown_pictures
from .overlay import colour_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_INHERITED = "activations_"  # prefix of attributes that a result inherited from the activations
_PANEL_HEIGHT = 400  # the largest height of an image in screen pixels, so that a portrait does not fill the page


@dataclass(frozen=True)
class Kind:
    """The names of an affinity, and what it was found to group by."""

    label: str
    name: str
    groups_by: str


KINDS = {
    "qk": Kind("QK", "query-key", "layout: where objects are"),
    "vv": Kind("VV", "value-value", "identity: what objects are"),
    "kk": Kind("KK", "key-key", "what the same queries attend to"),
    "qq": Kind("QQ", "query-query", "what attends to the same keys"),
    "token": Kind("Token", "token-token", "the whole content of the residual stream"),
    "qk_unrotated": Kind(
        "QK before rotation", "query-key before rotary positions", "what is attended to, wherever it is"
    ),
}


@dataclass(frozen=True)
class ReportTile:
    """One eigenvector over one image, with what a reader must know to trust it."""

    component: int
    src: str
    alt: str
    limit: str
    numbers: list[tuple[str, str]]
    flags: list[str]


@dataclass(frozen=True)
class Statistics:
    """Spectrum, layers and trust statements of one result: for one image, or for all images solved as one problem."""

    spectrum: SpectrumMarks
    layers: dict[int, list[LayerBar]]
    trust: list[Statement]


@dataclass(frozen=True)
class Caption:
    """What a page says about each result besides the result itself.

    Attributes
    ----------
    title
        The heading, which distinguishes the result from others of the same affinity; empty for the name of the
        affinity.
    detail
        A line below the heading.
    recipe
        A function from the name of an image, or None for all images, to Python code that makes the figures.
    trust
        Statements for every image, or for all images together, where they were made earlier and the activations are
        gone.
    """

    title: str = ""
    detail: str = ""
    recipe: Callable[[str | None], str] | None = None
    trust: Sequence[Sequence[Statement]] | None = None


@dataclass(frozen=True)
class ReportPanel:
    """One affinity of one image."""

    key: str
    kind: Kind
    title: str
    detail: str
    recipe: str
    tiles: list[ReportTile]
    isolated: list[tuple[int, int]]
    grid: tuple[int, int]
    statistics: Statistics | None


@dataclass(frozen=True)
class Card:
    """One image with all its affinities."""

    name: str
    index: int
    ratio: float
    widest: int
    size: str
    picture: str
    panels: list[ReportPanel]


@dataclass(frozen=True)
class ResultCard:
    """One affinity for all images."""

    key: str
    kind: Kind
    title: str
    settings: str
    formula: str
    recipe: str
    joint: Statistics | None
    attrs: list[tuple[str, str]]


@dataclass(frozen=True)
class Page:
    """Everything that the template draws."""

    title: str
    model: str
    cards: list[Card]
    answers: list[ResultCard]
    components: list[int]
    facts: list[tuple[str, str]]
    provenance: list[tuple[str, str]]
    layers: list[tuple[str, str]]
    record: dict[str, object] = field(repr=False)

    @property
    def backgrounds(self) -> dict[str, list[int]]:
        """Every image once, with the cards that show it."""
        return backgrounds(self.cards)


def build_page(
    activations: xr.DataTree | None,
    solved: Mapping[str, xr.Dataset],
    images: object,
    title: str,
    max_side: int,
    *,
    captions: Mapping[str, Caption] | None = None,
    only: int | None = None,
    first_card: int = 0,
) -> Page:
    """Gather the content of a report on results that were solved from the same activations.

    Parameters
    ----------
    captions
        What to say besides, by the keys of the results.
    only
        How many of the images to show; None shows all.
    first_card
        Number of the first image, where several of these share a page.
    """
    first = next(iter(solved.values()))
    attrs = provenance(activations, first)
    captions = {key: (captions or {}).get(key, Caption()) for key in solved}
    chosen = None if only is None else range(min(only, first.sizes["image"]))
    cards = [
        _card(shown, first_card + place, solved, activations, captions)
        for place, shown in enumerate(shown_pictures(images, first, chosen, max_side=max_side))
    ]
    components = sorted({int(number) for eig in solved.values() for number in eig.coords["component"].values})
    layers = _layer_facts(activations)
    return Page(
        title=title,
        model=str(attrs.get("model", "")),
        cards=cards,
        answers=[_answer(key, eig, attrs, captions[key]) for key, eig in solved.items()],
        components=components,
        facts=_facts(attrs, first, len(cards), layers),
        provenance=attribute_rows(attrs),
        layers=layers,
        record={
            "images": [card.name for card in cards],
            "activations": _jsonable(attrs),
            "layers": {name: _jsonable(dict(activations[name].attrs)) for name, _ in layers} if activations else {},
            "eigenvectors": {key: _jsonable(dict(eig.attrs)) for key, eig in solved.items()},
        },
    )


def backgrounds(cards: Sequence[Card]) -> dict[str, list[int]]:
    """Images as data, each once, with the numbers of the cards that show it."""
    found: dict[str, list[int]] = {}
    for card in cards:
        found.setdefault(card.picture, []).append(card.index)
    return found


def provenance(activations: xr.DataTree | None, eig: xr.Dataset) -> dict[str, object]:
    """Attributes of the activations, from the tree itself or from what a result records of them."""
    if activations is not None:
        return {str(name): value for name, value in activations.attrs.items()}
    return {
        str(name).removeprefix(_INHERITED): value
        for name, value in eig.attrs.items()
        if str(name).startswith(_INHERITED)
    }


def kind_of(eig: xr.Dataset, key: str) -> Kind:
    """The names of a result's affinity; an unknown name stands for itself."""
    name = str(eig.attrs.get("affinity", key))
    return KINDS.get(name, Kind(name.upper(), name, ""))


def _card(
    shown: ShownPicture,
    place: int,
    solved: Mapping[str, xr.Dataset],
    activations: xr.DataTree | None,
    captions: Mapping[str, Caption],
) -> Card:
    height, width = shown.pixels.shape[:2]
    return Card(
        name=shown.name,
        index=place,
        ratio=1 / shown.aspect,
        widest=round(_PANEL_HEIGHT / shown.aspect),
        size=f"{width} × {height} pixels as shown",
        picture=picture_uri(shown.pixels),
        panels=[_panel(key, eig, shown, activations, captions[key]) for key, eig in solved.items()],
    )


def _panel(
    key: str, eig: xr.Dataset, shown: ShownPicture, activations: xr.DataTree | None, caption: Caption
) -> ReportPanel:
    kind = kind_of(eig, key)
    rows, columns = np.nonzero(eig["isolated"].isel(image=shown.index).transpose("y", "x").values)
    alone = "image" in eig["eigenvalue"].dims
    return ReportPanel(
        key=key,
        kind=kind,
        title=caption.title or kind.label,
        detail=caption.detail,
        recipe=caption.recipe(shown.name) if caption.recipe else "",
        tiles=list(_tiles(kind, eig, shown)),
        isolated=[(int(row), int(column)) for row, column in zip(rows, columns, strict=True)],
        grid=(eig.sizes["y"], eig.sizes["x"]),
        statistics=_statistics(eig, shown.index, activations, caption) if alone else None,
    )


def _tiles(kind: Kind, eig: xr.Dataset, shown: ShownPicture) -> Iterator[ReportTile]:
    fields = eig["eigenvector"].isel(image=shown.index).transpose("component", "y", "x")
    for number, values in zip(fields.coords["component"].values, fields.values, strict=True):
        component = int(number)
        limit = colour_limit(eig, shown.index, component)
        numbers = [
            (label, f"{float(value):{form}}")
            for label, name, form in (
                ("eigenvalue", "eigenvalue", ".4g"),
                ("gap to the next", "eigengap", ".2g"),
                ("residual", "residual", ".1e"),
            )
            if (value := statistic(eig, name, shown.index, component)) is not None and np.isfinite(value)
        ]
        yield ReportTile(
            component=component,
            src=tile_uri(colour_field(values, limit)),
            alt=f"{kind.label} eigenvector {component} over {shown.name}: {eig.sizes['y']} rows of {eig.sizes['x']} "
            f"patches, gold positive, blue negative",
            limit=f"{limit:.3g}",
            numbers=numbers,
            flags=flags(eig, shown.index, component),
        )


def _statistics(eig: xr.Dataset, index: int | None, activations: xr.DataTree | None, caption: Caption) -> Statistics:
    """Statistics of one image, or of all images (``index=None``) where they were solved as one problem."""
    if caption.trust is not None:
        trust = list(caption.trust[index or 0])
    else:
        reduced = eig if index is None else eig.isel(image=index)
        # Tokens of outlying norm are found image by image.
        trust = trust_statements(reduced, None if index is None else activations)
    components = [int(number) for number in eig.coords["component"].values]
    return Statistics(
        spectrum=spectrum(eig, index or 0),
        layers={number: layer_bars(eig, index or 0, number) for number in components},
        trust=trust,
    )


def _answer(key: str, eig: xr.Dataset, activations_attrs: Mapping[str, object], caption: Caption) -> ResultCard:
    attrs = eig.attrs
    kernel = str(attrs.get("kernel", ""))
    settings = [kernel and f"{kernel} kernel", _said(attrs, "heads", "heads: {}"), _said(attrs, "method", "{} solver")]
    own = {
        name: value
        for name, value in attrs.items()
        if not str(name).startswith(_INHERITED) or activations_attrs.get(str(name).removeprefix(_INHERITED)) != value
    }
    joint = "image" not in eig["eigenvalue"].dims
    return ResultCard(
        key=key,
        kind=kind_of(eig, key),
        title=caption.title or kind_of(eig, key).label,
        recipe=caption.recipe(None) if caption.recipe else "",
        settings=", ".join(filter(None, settings)),
        formula=KERNELS[kernel].formula if kernel in KERNELS else "",
        joint=_statistics(eig, None, None, caption) if joint else None,
        attrs=attribute_rows(own),
    )


def _said(attrs: Mapping[str, object], name: str, words: str) -> str:
    return words.format(attrs[name]) if attrs.get(name) not in (None, "") else ""


def _facts(
    attrs: Mapping[str, object], eig: xr.Dataset, n_images: int, layers: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    scope = "all images as one problem" if eig.attrs.get("scope") == "dataset" else "each image alone"
    facts = [
        ("Model", str(attrs.get("model", "not recorded"))),
        ("Images", str(n_images)),
        ("Layers", str(len(layers) or eig.sizes.get("layer", ""))),
        ("Patches", f"{eig.sizes['y']} × {eig.sizes['x']}"),
        ("Solved", scope),
        ("Seed", str(eig.attrs.get("seed", attrs.get("seed", "")))),
        ("Trained", str(attrs.get("training", ""))),
    ]
    return [(name, value) for name, value in facts if value]


def _layer_facts(activations: xr.DataTree | None) -> list[tuple[str, str]]:
    if activations is None:
        return []
    facts = []
    for name in layer_names(activations):
        node = activations[name]
        sizes = [f"{node.sizes[size]} {label}" for size, label in (("head", "heads"),) if size in node.sizes]
        grid = f"{node.sizes['y']} × {node.sizes['x']} patches"
        facts.append((name, ", ".join([grid, *sizes, *(f"{key} {value}" for key, value in node.attrs.items())])))
    return facts


def attribute_rows(attrs: Mapping[str, object]) -> list[tuple[str, str]]:
    """Names and values of attributes as text, with JSON spread over lines."""
    rows = []
    for name, value in attrs.items():
        text = value if isinstance(value, str) else json.dumps(_jsonable(value))
        if isinstance(value, str) and value[:1] in "{[":
            text = _spread(value)
        rows.append((str(name), text or "(none)"))
    return rows


def _spread(text: str) -> str:
    """JSON over several lines; text that only looks like JSON stays as it is."""
    try:
        return json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    except ValueError:
        return text


def _jsonable(value: object) -> object:
    """The same value in types that JSON knows; numbers that JSON cannot write become None."""
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _jsonable(value.tolist())
    if isinstance(value, np.generic):
        return _jsonable(value.item())
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
