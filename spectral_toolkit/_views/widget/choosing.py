"""What an explorer does with chosen patches: it shows them in the images, and gives them to Python."""

from __future__ import annotations

import html
from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np
import pandas as pd
from bokeh.events import Event, Tap

from ..._affinity.nearest import JOINT
from ..._explorer import wording
from ..._explorer.lit import lit_images, most_chosen
from ..._explorer.selection import Patches, as_table, from_python, in_order
from ..._explorer.session import ShownState, Side, questions
from ..._explorer.state import State
from ..._render.marks import picture_uri, short_names
from .boxes import auto, box, full_width
from .cloud import CloudShown, image_variables
from .held import Held
from .live import LiveFigure
from .parts import Tapped, place_of
from .tiles import TileFigure

_WIDTH = 380  # in the units of the figure: its column is narrow, and captions shrink with it
_CROP_SIDE = 192  # pixels of the longer side of an image from which crops under the cursor are cut
_MOST_CROPS = 400


class Choosing(Held):
    """The part of `Explorer` that is about chosen patches; ``self`` is the explorer."""

    @property
    def selection(self) -> pd.DataFrame:
        """The chosen patches: image, y, x, the eigenvectors, the segment, and row and column on the grid.

        Assign a DataFrame with the columns image, y and x, a boolean DataArray (image, y, x), such as
        ``st.segment(explorer.eigenvectors) == 2``, or None for nothing. Images that were solved alone have eigenvectors
        of their own: numbers of images that are not shown are NaN, and their segment is -1.
        """
        self._require_current()
        assert self._answer is not None
        state, session = self._state, self._session
        question, whole = questions(state, session.facts)[0], self._answer.sides[0].whole
        segments = session.segments(state, question, whole)
        first = 0 if question.image is None else question.image
        return as_table(state.selection, session.facts.images, whole, segments, first)

    @selection.setter
    def selection(self, given: object) -> None:
        facts, state = self._session.facts, self._state
        grid = facts.grids_shown(state)[0]
        only = state.image if state.scope == "image" else None
        self.set(selection=from_python(given, facts.images, grid, only))

    def _chooser(self) -> widgets.VBox:
        """What is said of the chosen patches, the ways to choose others, and the images with those chosen."""
        self._chosen_head, self._nearest_words = widgets.HTML(), widgets.HTML()
        self._of_segment = widgets.Dropdown(
            options=[("-", None)], description="Segment", tooltip=wording.TIPS["of_segment"], layout=auto()
        )
        self._of_segment.add_class("st-narrow")
        self._of_segment.observe(lambda change: self._segment_picked(change["new"]), "value")
        self._to_nearest, self._to_none = (
            widgets.Button(description=label, tooltip=wording.TIPS[name], layout=auto())
            for name, label in (("to_nearest", "Choose nearest"), ("to_none", "Choose none"))
        )
        self._to_nearest.on_click(lambda _: self._choose(self._nearest_patches()))
        self._to_none.on_click(lambda _: self._choose(()))
        self._chosen_figures: ChosenFigures | None = None
        self._crops: dict[int, str] = {}
        self._crop_style = widgets.HTML(layout=widgets.Layout(display="none"))
        self._picking = False
        line = box("st-wrapped", self._of_segment, self._to_nearest, self._to_none)
        return box("st-choosing", self._chosen_head, line, self._chosen_stage, self._crop_style)

    def _show_chosen(self, shown: ShownState) -> list[LiveFigure]:
        """Bring all this up to date; gives the figures that are now to be seen."""
        state, side = shown.state, shown.sides[0]
        in_cloud = "axes" in wording.VIEWS[state.view].controls
        if in_cloud:
            self._bring_crops(shown)
        self._nearest_words.value = nearest_words(shown.sides) if state.patch is not None else ""
        has_segments = side.data is not None and self._segment_numbers(side) is not None
        options: list[tuple[str, int | None]] = [("-", None)]
        options += [(str(number), number) for number in self._segment_numbers(side) or ()]
        self._picking = True
        if list(self._of_segment.options) != options:
            self._of_segment.options = options
        self._of_segment.value = None
        self._picking = False
        for widget, is_seen in (
            (self._of_segment, has_segments),
            (self._to_nearest, state.patch is not None),
            (self._to_none, bool(state.selection)),
        ):
            wanted = None if is_seen else "none"
            if widget.layout.display != wanted:
                widget.layout.display = wanted
        self._chosen_head.value = chosen_words(state, in_cloud)
        if not state.selection:
            return []
        self._chosen_figures = self._chosen_figures or ChosenFigures(self._on_change)
        images, counts = most_chosen(state.selection)
        pictures = [self._session.small(image, 256) for image in images]
        self._chosen_figures.show(shown, pictures, images, counts, self._session.picture(images[0]).aspect)
        return [self._chosen_figures.widget]

    def _segment_numbers(self, side: Side) -> list[int] | None:
        """The segments of the view, where it has them."""
        state, session = self._state, self._session
        question = side.question
        found = session.known_segments(state, question)
        return None if found is None else sorted({int(one) for one in found.ravel().tolist()} - {-1})

    def _segment_picked(self, number: int | None) -> None:
        if number is None or self._picking or self._answer is None:
            return
        side = self._answer.sides[0]
        found = self._session.known_segments(self._state, side.question)
        if found is not None:
            self._choose(_patches(found == number, side.question.image or 0))

    def _nearest_patches(self) -> Patches:
        """Those nearest to the patch, and the patch itself."""
        state = self._state
        if self._answer is None or state.patch is None or self._answer.sides[0].nearest is None:
            return state.selection
        table = self._answer.sides[0].nearest
        joint = table[table["layer"] == JOINT]
        places = [self._session.facts.images.index(name) for name in joint["image"]]
        found = zip(places, joint["row"].tolist(), joint["column"].tolist(), strict=True)
        return in_order([(state.image, *state.patch), *found])

    def _choose(self, patches: Patches) -> None:
        self._on_change(selection=patches)

    def _bring_crops(self, shown: ShownState) -> None:
        """Bring the images of the points into the page, once each."""
        state = shown.state
        wanted = [state.image] if state.scope == "image" else range(min(len(shown.names), _MOST_CROPS))
        new = [image for image in wanted if image not in self._crops]
        if new:
            self._crops |= {image: picture_uri(self._session.small(image, _CROP_SIDE)) for image in new}
            cloud = self._pictures.charts[wording.VIEWS[state.view]]
            if isinstance(cloud, CloudShown):
                self._crop_style.value = image_variables(cloud.name, self._crops)


class ChosenFigures:
    """The images with chosen patches, those that have most first; a tap goes there."""

    def __init__(self, tapped: Tapped) -> None:
        self._tapped = tapped
        self._images: Sequence[int] = ()
        self._grid = (1, 1)
        self.figure = TileFigure("chosen")
        self.figure.figure.on_event(Tap, self._on_tap)
        self.widget = LiveFigure(self.figure.figure, layout=full_width())

    def show(
        self,
        shown: ShownState,
        pictures: Sequence[np.ndarray],
        images: Sequence[int],
        counts: Sequence[int],
        aspect: float,
    ) -> None:
        """Draw the images with the most chosen patches."""
        self._images = images
        tiles = lit_images(shown, pictures, images, counts)
        columns = min(len(tiles), 2 if len(tiles) <= 4 else 4)
        with self.widget.together():
            tips = [("patch (row, column)", "@row, @column")]
            self.figure.show(tiles, width=_WIDTH, aspect=aspect, columns=max(columns, 2), tooltips=tips)

    def _on_tap(self, event: Event) -> None:
        hit = self.figure.hit(*place_of(event))
        if hit is not None and hit[0] < len(self._images):
            self._tapped(image=self._images[hit[0]], patch=hit[1])  # the tiles have the grid of the first setting


def _patches(mask: np.ndarray, first: int) -> Patches:
    found = np.argwhere(mask)
    found[:, 0] += first
    return in_order(found)


def chosen_words(state: State, in_cloud: bool) -> str:
    """How many patches are chosen, or how to choose some."""
    if not state.selection:
        if not in_cloud:
            return ""
        return '<p class="invite">Draw a box or a lasso round points: their patches light up in the images.</p>'
    n, images = len(state.selection), len({image for image, _, _ in state.selection})
    where = f" in {images} images" if images > 1 else ""
    most = len(most_chosen(state.selection)[0])
    more = f", of which the {most} with most are shown" if images > most else ""
    return f"<h2>{n:,} patch{'es' if n > 1 else ''} chosen{where}{more}</h2>"


def nearest_words(sides: Sequence[Side]) -> str:
    """A table for every side: the patches with the strongest affinity, jointly and by layer."""
    tables = []
    for side in sides:
        if side.nearest is None:
            continue
        layers = side.nearest["layer"].unique().tolist()
        heads = dict(zip(layers, [JOINT, *short_names(layers[1:])], strict=True))
        n = max(side.nearest["rank"].tolist(), default=0)
        several = side.question.image is None
        lines = "".join(f'<th scope="col">{html.escape(heads[layer])}</th>' for layer in layers)
        body = ""
        by_layer = {layer: part.to_dict("records") for layer, part in side.nearest.groupby("layer", sort=False)}
        for rank in range(n):
            cells = ""
            for layer in layers:
                rows = by_layer.get(layer, [])
                if rank >= len(rows):
                    cells += "<td></td>"
                    continue
                one = rows[rank]
                where = f"{one['row']}, {one['column']}"
                name = f" {html.escape(str(one['image']))}" if several else ""
                cells += f'<td title="affinity {one["affinity"]:.3g}">{where}{name} <i>{one["relative"]:.2f}</i></td>'
            body += f'<tr><th scope="row">{rank + 1}</th>{cells}</tr>'
        tables.append(
            f'<section class="side"><details class="st-nearest"><summary>{html.escape(wording.short_title(side))}: '
            f"nearest patches, jointly and by layer</summary><div><table><thead><tr><th></th>{lines}</tr></thead>"
            f'<tbody>{body}</tbody></table></div><p class="hint">Row and column on the grid of each layer, and the '
            "affinity as a fraction of the strongest.</p></details></section>"
        )
    inner = "".join(tables)
    return f'<div class="sides{" is-compare" if len(tables) > 1 else ""}">{inner}</div>' if tables else ""
