"""The frozen page as text: a template with every name escaped, our own script and style, and one block of data."""

from __future__ import annotations

import base64
import io

import numpy as np
import xarray as xr
from PIL import Image

from ..._explorer.precomputed import Content
from ..._render.composite import blend, colour_field, shrink
from ..._render.marks import picture_uri, tile_uri
from ..._render.underlay import ShownPicture
from ..overlay import colour_limit
from ..report_data import attribute_rows, kind_of, provenance
from ..templating import render
from .packing import pack

_SHEET_WIDTH = 900  # pixels of the image that is shown where no script may run


def document(
    content: Content, shown: list[ShownPicture], *, title: str, opacity: float, start: dict[str, object]
) -> str:
    """The whole page."""
    first = content.settings[0].eig
    attrs = provenance(content.activations, first)
    return render(
        "frozen",
        title=title,
        facts=_facts(content, attrs),
        pictures=[_thumbnail(content, picture) for picture in shown],
        kinds=[kind_of(content.setting(kind, content.presets[0]).eig, kind) for kind in content.kinds],
        keys=content.kinds,
        presets=content.presets,
        components=[int(number) for number in first.coords["component"].values],
        views=tabs(content),
        opacity=opacity,
        start=start,
        has_rows=content.sources is not None,
        provenance=attribute_rows(attrs),
        solved=[
            (setting.kind, setting.preset, attribute_rows(_own(setting.eig.attrs))) for setting in content.settings
        ],
        scripts=("frozen", "frozen_cloud"),
        styles=("frozen", "frozen_cloud"),
        data=base64.b64encode(pack(content, shown)).decode("ascii"),
    )


def tabs(content: Content) -> dict[str, tuple[str, str]]:
    """The page's tabs: the name of a view, with its title and hint; several views may share a tab."""
    views = content.views()
    return {
        view.name: (view.title, " ".join(one.hint for one in views if (one.tab or one.name) == view.name))
        for view in views
        if not view.tab
    }


def contact_sheet(content: Content, shown: list[ShownPicture], opacity: float) -> bytes:
    """A PNG for pages that may run no script: every image, and its first eigenvector under each affinity."""
    columns = len(content.kinds) + 1
    side = min(max(96, _SHEET_WIDTH // columns), 300)
    rows = []
    for picture in shown:
        small = shrink(picture.pixels, side)
        height, width = max(1, round(min(side, side * picture.aspect))), max(1, round(min(side, side / picture.aspect)))
        small = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.LANCZOS))
        cells = [small]
        for kind in content.kinds:
            eig = content.setting(kind, content.presets[0]).eig
            cells.append(blend(small, first_colours(eig, picture.index), opacity))
        sheet = np.full((side + 8, columns * (side + 8), 3), 255, np.uint8)
        for place, cell in enumerate(cells):
            left = place * (side + 8) + 4
            sheet[4 : 4 + cell.shape[0], left : left + cell.shape[1]] = cell
        rows.append(sheet[: max(cell.shape[0] for cell in cells) + 8])
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).quantize(128).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def first_colours(eig: xr.Dataset, index: int) -> np.ndarray:
    """Colours of the first eigenvector of one image, uint8 (y, x, 3)."""
    number = int(eig.coords["component"].values[0])
    field = eig["eigenvector"].isel(image=index).sel(component=number).transpose("y", "x").values
    return colour_field(field, colour_limit(eig, index, number))


def _thumbnail(content: Content, picture: ShownPicture) -> dict[str, object]:
    eig = content.settings[0].eig
    kind = kind_of(eig, content.kinds[0])
    return {
        "name": picture.name,
        "src": picture_uri(picture.pixels),
        "ratio": f"{1 / picture.aspect:.4f}",
        "tile": tile_uri(first_colours(eig, picture.index)),
        "alt": f"{kind.label} eigenvector 1 over {picture.name}, gold positive, blue negative",
    }


def _facts(content: Content, attrs: dict[str, object]) -> list[tuple[str, str]]:
    return [
        ("Model", str(attrs.get("model", "not recorded"))),
        ("Images", str(len(content.images))),
        ("Layers", str(len(content.layers))),
        ("Eigenvectors", str(content.settings[0].eig.sizes["component"])),
        ("Solved", "all images as one" if content.scope == "dataset" else "each image alone"),
        *([("Trained", str(attrs["training"]))] if attrs.get("training") else []),
    ]


def _own(attrs: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in attrs.items() if not str(name).startswith("activations_")}
