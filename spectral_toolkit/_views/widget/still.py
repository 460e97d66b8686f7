"""The explorer's view as a still picture in the cell's output: what a saved notebook shows where there is no kernel.

A front end that cannot make the widget says so in a few words, or shows its text. The picture is an output of its own,
before the widget; the widget's style hides it, so that it is seen wherever there is no widget. It follows the view: at
once while a cell runs, and after a change by hand as soon as the hand rests.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

from bokeh.models import Quad, Scatter, Segment, Text
from PIL import Image, ImageDraw, ImageFont

from ..bokeh_sent import current_run

MOST = 120_000
"""Bytes of a picture: it is kept twice in the notebook, for pages and for what is printed."""

_WIDEST = 1000  # pixels of its longer side
_REST = 1.0  # seconds without a change before the picture follows
_WORDS = "A still picture of the explorer. Run the cells above this one, then this cell, for the explorer itself."
_INK = "#1a1a1a"


class Still:
    """The picture of one explorer, in the cell that displayed it last."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_shown = False
        self._waiting: asyncio.TimerHandle | None = None

    @property
    def hidden(self) -> str:
        """CSS that hides the picture, for pages that show the widget."""
        return f".{self._name}-still {{ display: none; }}"

    def show(self, draw: Callable[[], Image.Image]) -> None:
        """Display the picture in the cell that runs."""
        self._is_shown = True
        self._publish(draw, update=False)

    def follow(self, draw: Callable[[], Image.Image]) -> None:
        """The view has changed: let the picture follow, where it was displayed."""
        if not self._is_shown:
            return
        self.close()
        if current_run() is not None:
            self._publish(draw, update=True)
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # nobody can change anything without one
            return
        self._waiting = loop.call_later(_REST, lambda: self._publish(draw, update=True))

    def close(self) -> None:
        """Leave the picture as it is."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _publish(self, draw: Callable[[], Image.Image], update: bool) -> None:
        from IPython.core.getipython import get_ipython
        from IPython.display import publish_display_data

        if get_ipython() is None:
            return
        png = base64.b64encode(small_png(draw())).decode("ascii")
        # In a page that cannot find the widget, its place says only that, in words without any element.
        after = f".jp-OutputArea-child:has(.{self._name}-still) + .jp-OutputArea-child"
        place = f"{after} > .jp-OutputArea-output:not(:has(*))"
        html = (
            f'<style>{place} {{ display: none; }}</style><div class="{self._name}-still">'
            f'<img style="max-width:100%" alt="{_WORDS}" src="data:image/png;base64,{png}"><p>{_WORDS}</p></div>'
        )
        data = {"text/html": html, "image/png": png, "text/plain": _WORDS}
        publish_display_data(data, transient={"display_id": self._name}, update=update)


def small_png(picture: Image.Image, most: int = MOST) -> bytes:
    """A picture as a PNG of at most so many bytes: fewer colours first, then fewer pixels."""
    tried = picture.copy()
    tried.thumbnail((_WIDEST, _WIDEST))  # encoding takes time, too, before the first view
    while True:
        for one in (tried, tried.quantize(256, dither=Image.Dither.NONE)):
            buffer = io.BytesIO()
            one.save(buffer, "PNG")
            if buffer.tell() <= most:
                return buffer.getvalue()
        tried = tried.resize((max(1, tried.width * 3 // 4), max(1, tried.height * 3 // 4)), Image.Resampling.LANCZOS)


def below_each_other(pictures: Sequence[Image.Image]) -> Image.Image:
    """One picture of several."""
    whole = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), "white")
    top = 0
    for one in pictures:
        whole.paste(one, (0, top))
        top += one.height
    return whole


def chart_sheet(figure: Any, size: tuple[int, int] = (1280, 680)) -> Image.Image:
    """A chart of the explorer, drawn from the columns of its sources."""
    drawn = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(22)
    left, right, top, bottom = 110, size[0] - 30, 30, size[1] - 80
    ranges = (figure.x_range, figure.y_range)

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = ((v - r.start) / (r.end - r.start) for v, r in zip((x, y), ranges, strict=True))
        return left + across * (right - left), bottom - up * (bottom - top)

    draw.line([(left, top), (left, bottom), (right, bottom)], fill=_INK, width=2)
    for part in range(5):
        value = ranges[1].start + part / 4 * (ranges[1].end - ranges[1].start)
        draw.text((left - 10, at(ranges[0].start, value)[1]), f"{value:.2g}", fill=_INK, font=font, anchor="rm")
    names = figure.xaxis[0].major_label_overrides
    for number in names if names else range(int(ranges[0].start) + 1, int(ranges[0].end) + 1):
        draw.text((at(number, 0)[0], bottom + 10), str(names.get(number, number)), fill=_INK, font=font, anchor="mt")
    middle = ((left + right) / 2, size[1] - 8)
    draw.text(middle, f"{figure.xaxis[0].axis_label}; upwards: {figure.yaxis[0].axis_label}", _INK, font, anchor="mb")
    for one in figure.renderers:
        data = {name: list(column) for name, column in one.data_source.data.items()}
        for row in (dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)):
            _draw_mark(draw, one.glyph, row, at, font)
    return drawn


def _draw_mark(draw: ImageDraw.ImageDraw, glyph: Any, row: dict[str, Any], at: Callable[..., Any], font: Any) -> None:
    if isinstance(glyph, Quad):
        (x0, y0), (x1, y1) = at(row["left"], row["top"]), at(row["right"], row["bottom"])
        draw.rectangle([x0, min(y0, y1), x1, max(y0, y1)], fill=row["ink"])
    elif isinstance(glyph, Segment):
        draw.line([at(row["x0"], row["y0"]), at(row["x1"], row["y1"])], fill=row["ink"], width=4)
    elif isinstance(glyph, Scatter):
        x, y = at(row["x"], row["y"])
        draw.ellipse([x - 10, y - 10, x + 10, y + 10], fill=row["fill"], outline=row["ink"], width=4)
    elif isinstance(glyph, Text):
        anchor = "rt" if glyph.text_align == "right" else "lm"
        draw.text(at(row["x"], row["y"]), row["text"], fill=_INK, font=font, anchor=anchor)
