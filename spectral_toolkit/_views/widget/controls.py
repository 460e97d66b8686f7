"""The controls: plain ipywidgets that show the state and report every change that a user makes."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import ipywidgets as widgets
import numpy as np
from PIL import Image

from ..._affinity.table import KERNELS, default_kernel
from ..._explorer import wording
from ..._explorer.state import MAX_EIGENVECTORS, MAX_SEGMENTS, PRESETS, Facts, State
from ..._explorer.view import Slider, View, offered
from ..._explorer.views import VIEWS
from ..._render.patch_colours import COLOURINGS
from .boxes import box
from .channel import Channel
from .layers import LayerMatrix

Change = Callable[..., None]
"""Called with the fields of the state that the user changed."""

THUMB = 96  # pixels of the longer side of a small image
MAX_THUMBS = 60
NONE = "none"
"""What stands for None among the values of a menu, where ipywidgets takes None for no choice at all."""


W = TypeVar("W", bound=widgets.DOMWidget)


class Controls:
    """All widgets, by the field that they set. ``show`` moves them; ``on_change`` is called for users' changes only."""

    def __init__(self, facts: Facts, on_change: Change, name: str) -> None:
        self.facts = facts
        self._on_change = on_change
        self._muted = 0
        self.name = name
        self.thumbs: list[widgets.ToggleButton] = []
        self.image = self._image_chooser()
        self.scope = self._watched(
            "scope",
            widgets.ToggleButtons(
                options=[("Each image", "image"), ("All as one", "dataset")],
                tooltips=["Solve every image alone.", wording.TIPS["scope"]],
                style={"button_width": "auto"},
                disabled=len(facts.images) < 2,
            ),
        )
        self.scope.add_class("st-segmented")
        self.affinity = self._affinity("affinity")
        self.other_affinity = self._affinity("other_affinity")
        self.kernel = self._kernel("kernel")
        self.other_kernel = self._kernel("other_kernel")
        self.other_layers = self._choice(
            "other_layers", [(text, text) for text in ("same", "all", "early", "middle", "late")], "Layers"
        )
        same = widgets.Dropdown(options=[("the same", NONE)], description="Vector", layout=_wide())
        self.other_component = self._watched("other_component", same)
        self.times = {name: self._timesteps(name) for name in ("timestep", "other_timestep")}
        self.presets = {preset: self._button(preset, f"{preset}") for preset in PRESETS}
        self.layers = LayerMatrix(facts.layers)
        self.channel = Channel(name, self._heard)
        self.n_eigenvectors = self._watched(
            "n_eigenvectors", widgets.IntSlider(description="Number", min=1, max=self._most(), **_across())
        )
        self.component = self._watched(
            "component",
            widgets.ToggleButtons(
                options=[1],
                tooltips=["Show eigenvector 1."],
                description="Eigenvector",
                style={"button_width": "auto"},
            ),
        )
        self.component.add_class("st-components")
        self.opacity = self._watched(
            "opacity",
            widgets.FloatSlider(description="Opacity", min=0, max=1, step=0.05, readout_format=".2f", **_across()),
        )
        self.smooth = self._switch("smooth", "Smooth")
        self._cutting()
        self.compare = self._switch("compare", "Compare with a second setting")
        self.mask_outliers = self._switch("mask_outliers", "Mask outlying tokens")
        self.heads = self._switch("heads", "Every head")
        self.untap = widgets.Button(description="Forget patch", tooltip=wording.TIPS["untap"])
        self.untap.on_click(lambda _: self._tell(patch=None))
        segments = [("auto", "auto"), ("widest gap", "eigengap"), *((str(n), n) for n in range(2, MAX_SEGMENTS + 1))]
        self.n_segments = self._choice("n_segments", segments, "Segments")
        self.three = [
            self._component_of("three", colour, place) for place, colour in enumerate(("Red", "Green", "Blue"))
        ]
        self.axes = [self._component_of("axes", way, place) for place, way in enumerate(("Across", "Up"))]
        self.projection = self._choice(
            "projection", [("two eigenvectors", "components"), ("t-SNE of all", "tsne")], "By"
        )
        known = [(text, name) for name, text in COLOURINGS.items() if name != "label" or facts.has_labels]
        self.coloured = self._choice("coloured", known, "Coloured by")
        for narrow in (self.projection, self.coloured, self.n_segments):
            narrow.add_class("st-narrow")
        self.outlined = self._switch("outlined", "Outline labels")
        self.appearance = _column(_headed("Appearance"), self.opacity, self.smooth, self.outlined)
        self.view = self._watched("view", widgets.ToggleButtons(style={"button_width": "auto"}, **self._views()))
        self.view.add_class("st-tabs")
        self._by_control = {
            "component": [self.component],
            "opacity": [self.opacity],
            "smooth": [self.smooth],
            "threshold": [self.is_cut],
            "three": self.three,
            "n_segments": [self.n_segments],
            "axes": self.axes,
            "projection": [self.projection],
            "coloured": [self.coloured],
        }
        self.sliders: dict[Slider, widgets.FloatSlider | widgets.Checkbox] = {}
        self.own = widgets.HBox()
        other = [self.other_affinity, self.other_kernel, self.other_layers, self.other_component]
        self.other = _column(*other, self.times["other_timestep"])
        self.other.add_class("st-other")

    def left(self) -> widgets.VBox:
        """The column beside the image."""
        presets = widgets.HBox(list(self.presets.values()))
        presets.add_class("st-presets")
        inside = _column(
            _column(_headed("Image"), self.image, self.scope, self.times["timestep"]),
            _column(_headed("Affinity"), self.affinity, self.kernel),
            _column(self.compare, self.other),
            _column(_headed("Layers, solved together"), presets, self.layers),
            _column(_headed("Eigenvectors"), self.n_eigenvectors, self.mask_outliers),
            self.appearance,
        )
        inside.add_class("st-scrolled")
        column = widgets.VBox([inside, self.channel])
        column.add_class("st-left")
        return column

    def above(self, full: widgets.Widget, busy: widgets.Widget) -> widgets.VBox:
        """The rows above the image: the choice of the view, and its settings."""
        head = widgets.HBox([self.view, full])
        head.add_class("st-head")
        cloud = [self.projection, *self.axes, self.coloured]
        strip = widgets.HBox([self.component, *self.three, *cloud, self.n_segments, self.is_cut, self.own, busy])
        strip.add_class("strip")
        self.cut.add_class("cutting")
        return _column(head, strip, self.cut)

    def show(self, state: State) -> None:
        """Move every widget to the state, without a call of ``on_change``."""
        weights = state.weights or {}
        with self._quiet():
            self._show_image(state.image)
            self._offer_views()
            for name in (
                "scope",
                "affinity",
                "other_affinity",
                "n_segments",
                "other_layers",
                "view",
                "projection",
                "coloured",
            ):
                _set(getattr(self, name), value=getattr(state, name))
            for side in ("", "other_"):
                kind, kernel = (getattr(state, f"{side}{name}") for name in ("affinity", "kernel"))
                chosen, buttons = (getattr(self, f"{side}{name}") for name in ("kernel", "affinity"))
                options = _kernel_options(kind, state.scope)
                if tuple(chosen.options) != tuple(options):
                    chosen.options = options
                _set(chosen, value=kernel or default_kernel(kind, state.scope))
                kinds = [value for _, value in buttons.options]
                tips = (wording.affinity_tip(one, kernel if one == kind else None, state.scope) for one in kinds)
                _set(buttons, tooltips=tuple(tips))
            self.channel.tell(weights=self.layers.told(weights))
            for name, button in self.presets.items():
                _pressed(button, name != "invert" and self.facts.preset(name, {}) == weights)
            rows, columns = self.facts.grid_of(weights)
            most = min(MAX_EIGENVECTORS, rows * columns - 2)
            self.n_eigenvectors.max = max(most, state.n_eigenvectors)
            _set(self.n_eigenvectors, value=state.n_eigenvectors, max=most)
            numbers = tuple(range(1, state.n_eigenvectors + 1))
            if self.component.options != numbers:
                self.component.tooltips = [f"Show eigenvector {number}." for number in numbers]
                self.component.set_trait("options", numbers)
                self.other_component.options = [("the same", NONE), *((str(number), number) for number in numbers)]
            _set(self.other_component, value=_or_none(state.other_component))
            for name, slider in self.times.items():
                _set(slider, value=_or_none(getattr(state, name)))
            for name in ("component", "opacity", "smooth", "compare", "mask_outliers", "heads", "outlined"):
                _set(getattr(self, name), value=getattr(state, name))
            _set(self.is_cut, value=state.threshold is not None)
            if state.threshold is not None:
                _set(self.threshold, value=state.threshold)
            for name in ("three", "axes"):
                for box, number in zip(getattr(self, name), getattr(state, name), strict=True):
                    _set(box, value=number)
            self._show_what_applies(state)

    def set_thumbnails(self, pictures: Sequence[tuple[np.ndarray, float]]) -> str:
        """The style that shows small images on the buttons, each in its own shape: height divided by width."""
        rules = [
            f".st-explorer .{self.name}-thumb-{place} {{ background-image: url({_thumb(picture)}) !important; "
            f"aspect-ratio: {1 / aspect:.4f}; }}"
            for place, (picture, aspect) in enumerate(pictures[: len(self.thumbs)])
        ]
        return "\n".join(rules)

    def _show_image(self, image: int) -> None:
        if isinstance(self.image, widgets.Dropdown):
            _set(self.image, value=image)
        for place, thumb in enumerate(self.thumbs):
            _set(thumb, value=place == image)

    def _show_what_applies(self, state: State) -> None:
        view = VIEWS[state.view]
        for name, shown in self._by_control.items():
            for widget in shown:
                _display(widget, name in view.controls)
        self._show_sliders(view, state)
        _display(self.appearance, bool({"opacity", "smooth"} & set(view.controls)))
        for widget in self.axes:
            _display(widget, "axes" in view.controls and state.projection == "components")
        _display(self.outlined, self.facts.has_labels)
        _display(self.cut, state.cut is not None)
        _display(self.other, state.compare)
        _display(self.untap, state.patch is not None)
        _display(self.heads, state.patch is not None and state.affinity != "token" and state.scope == "image")
        _set(self.mask_outliers, disabled=not self.facts.has_tokens or state.scope == "dataset")

    def _views(self) -> dict[str, object]:
        views = offered(self.facts.quantities)
        return {"options": [(view.title, view.name) for view in views], "tooltips": [view.hint for view in views]}

    def _offer_views(self) -> None:
        """Offer what was registered since, too."""
        views = self._views()
        if list(self.view.options) != views["options"]:
            self.view.set_trait("options", views["options"])
            self.view.tooltips = views["tooltips"]

    def _show_sliders(self, view: View, state: State) -> None:
        """The sliders that the view has of its own."""
        for slider in view.sliders:
            if slider not in self.sliders:
                self.sliders[slider] = self._own_slider(slider)
                self.own.children = tuple(self.sliders.values())
            value = state.options[slider.name]
            _set(self.sliders[slider], value=bool(value) if slider.is_switch else value)
        for slider, widget in self.sliders.items():
            _display(widget, slider in view.sliders)

    def _own_slider(self, slider: Slider) -> widgets.FloatSlider | widgets.Checkbox:
        if slider.is_switch:
            switch = widgets.Checkbox(description=slider.title, indent=False, tooltip=slider.hint, layout=_wide())
            switch.observe(lambda change: self._tell(option=(slider.name, float(change["new"]))), "value")
            return switch
        widget = widgets.FloatSlider(
            value=slider.start,
            min=slider.least,
            max=slider.most,
            step=slider.step,
            readout_format=".4g",
            description=slider.title,
            tooltip=slider.hint,
            layout=widgets.Layout(width="340px", max_width="100%"),
            style={"description_width": "initial"},
        )
        widget.observe(lambda change: self._tell(option=(slider.name, _slid(change))), "value")
        return widget

    def _tell(self, **changes: object) -> None:
        if not self._muted:
            self._on_change(**changes)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        self._muted += 1
        try:
            yield
        finally:
            self._muted -= 1

    def _watched(self, name: str, widget: W) -> W:
        widget.observe(lambda change: self._tell(**{name: _slid(change)}), "value")
        if name in wording.TIPS:
            widget.tooltip = wording.TIPS[name]
        return widget

    def _most(self) -> int:
        cells = max(rows * columns for rows, columns in self.facts.grids.values())
        return max(1, min(MAX_EIGENVECTORS, cells - 2))

    def _switch(self, name: str, label: str) -> widgets.Checkbox:
        box = widgets.Checkbox(description=label, indent=False, layout=widgets.Layout(width="auto"))
        return self._watched(name, box)

    def _choice(self, name: str, options: Sequence[tuple[str, object]], label: str) -> widgets.Dropdown:
        return self._watched(name, widgets.Dropdown(options=options, description=label, layout=_wide()))

    def _timesteps(self, name: str) -> widgets.SelectionSlider:
        """The timesteps of a denoiser; hidden where there are none to choose from."""
        known = getattr(self.facts, f"{name}s")
        options = [("all", NONE), *((f"{value:g}", place) for place, value in enumerate(known))]
        slider = widgets.SelectionSlider(options=options, description="Timestep", **_across())
        _display(slider, bool(known))
        return self._watched(name, slider)

    def _button(self, name: str, label: str) -> widgets.Button:
        button = widgets.Button(description=label, tooltip=wording.TIPS[name], layout=widgets.Layout(width="auto"))
        button.on_click(lambda _: self._tell(preset=name))
        return button

    def _heard(self, said: Mapping[str, object]) -> None:
        """What the page's script said; the state decides whether it is understood."""
        if said:
            self._tell(**said)

    def _affinity(self, name: str) -> widgets.ToggleButtons:
        kinds = self.facts.kinds
        buttons = widgets.ToggleButtons(
            options=[(wording.AFFINITIES[kind].button, kind) for kind in kinds if kind in wording.AFFINITIES],
            tooltips=[wording.affinity_tip(kind, None) for kind in kinds if kind in wording.AFFINITIES],
            style={"button_width": "auto"},
        )
        buttons.add_class("st-segmented")
        return self._watched(name, buttons)

    def _kernel(self, name: str) -> widgets.Dropdown:
        box = widgets.Dropdown(
            options=_kernel_options(self.facts.kinds[0]),
            description="Kernel",
            tooltip=wording.TIPS[name],
            layout=_wide(),
        )
        which = "other_affinity" if name.startswith("other") else "affinity"

        def told(change: Mapping[str, object]) -> None:
            kind = getattr(self, which).value
            default = default_kernel(kind, str(self.scope.value))
            self._tell(**{name: None if change["new"] == default else change["new"]})

        box.observe(told, "value")
        return box

    def _cutting(self) -> None:
        """The switch of the cut, its slider, and the button and numbers beside it."""
        self.is_cut = widgets.Checkbox(
            description="Cut in two",
            indent=False,
            tooltip=wording.TIPS["is_cut"],
            layout=widgets.Layout(width="auto"),
        )
        self.threshold = widgets.FloatSlider(
            description="Above",
            min=-1,
            max=1,
            step=0.01,
            readout_format=".2f",
            tooltip=wording.TIPS["threshold"],
            layout=widgets.Layout(width="430px", max_width="100%"),  # long, because its steps are small
        )

        def moved(change: Mapping[str, object]) -> None:
            if self.is_cut.value:
                self._tell(threshold=_slid(change))

        self.threshold.observe(moved, "value")
        self.is_cut.observe(
            lambda change: self._tell(threshold=self.threshold.value if change["new"] else None), "value"
        )
        self.lowest = widgets.Button(
            description="Lowest cut", tooltip=wording.TIPS["lowest"], layout=widgets.Layout(width="auto")
        )
        self.lowest.add_class("st-lowest")
        self.lowest.on_click(lambda _: self._tell(lowest_cut=True))
        self.cut_cost = widgets.HTML()
        self.cut = widgets.HBox([self.threshold, self.lowest, self.cut_cost])

    def _component_of(self, name: str, label: str, place: int) -> widgets.BoundedIntText:
        box = widgets.BoundedIntText(
            value=place + 1,
            min=1,
            max=MAX_EIGENVECTORS,
            description=label,
            tooltip=wording.TIPS[name],
            layout=widgets.Layout(width="110px"),
            style={"description_width": "44px"},
        )
        box.observe(lambda _: self._tell(**{name: tuple(box.value for box in getattr(self, name))}), "value")
        return box

    def _image_chooser(self) -> widgets.Widget:
        names = self.facts.images
        if len(names) > MAX_THUMBS:
            return self._watched(
                "image",
                widgets.Dropdown(options=[(name, place) for place, name in enumerate(names)], layout=_wide()),
            )
        for place, name in enumerate(names):
            thumb = widgets.ToggleButton(tooltip=f"Image {name}", layout=widgets.Layout(width="100%", height="auto"))
            thumb.add_class("st-thumb")
            thumb.add_class(f"{self.name}-thumb-{place}")
            thumb.observe(lambda change, place=place: self._thumb_pressed(place, change["new"]), "value")
            self.thumbs.append(thumb)
        box = widgets.HBox(self.thumbs)
        box.add_class("st-thumbs")
        return box

    def _thumb_pressed(self, place: int, pressed: bool) -> None:
        if self._muted:
            return
        if not pressed:  # the chosen image stays chosen
            with self._quiet():
                self.thumbs[place].value = True
            return
        self._tell(image=place)


def _slid(change: Mapping[str, object]) -> object:
    """The value of a change, rounded: the page counts steps from a slider's minimum, and 0.34 is 0.3399999999999999.

    The page also sends such a value by itself whenever it is loaded; from a slider that is off it has no meaning.
    """
    value = change["new"]
    if value is NONE:
        return None
    return round(value, 2) if isinstance(value, float) else value


def _or_none(value: int | None) -> object:
    return NONE if value is None else value


def _column(*parts: widgets.Widget) -> widgets.VBox:
    return box("st-column", *parts)


def _across() -> dict[str, object]:
    """Settings of a slider that is as wide as its column."""
    return {"layout": widgets.Layout(width="auto"), "style": {"description_width": "62px"}}


def _pressed(button: widgets.DOMWidget, is_pressed: bool) -> None:
    if ("mod-active" in button._dom_classes) != is_pressed:
        (button.add_class if is_pressed else button.remove_class)("mod-active")


def _headed(text: str) -> widgets.HTML:
    head = widgets.HTML(html.escape(text))
    head.add_class("st-heading")
    return head


def _kernel_options(kind: str, scope: str = "image") -> list[tuple[str, str]]:
    return [
        (line.label, name)
        for name, line in KERNELS.items()
        if kind in line.kinds and scope in line.scopes and line.in_menu
    ]


def _wide() -> widgets.Layout:
    return widgets.Layout(width="auto")


def _set(widget: object, **values: object) -> None:
    """Assign only what differs, because every assignment is a message to the page."""
    for name, value in values.items():
        if getattr(widget, name) != value:
            setattr(widget, name, value)


def _display(widget: widgets.DOMWidget, shown: bool) -> None:
    wanted = None if shown else "none"
    if widget.layout.display != wanted:
        widget.layout.display = wanted


def _thumb(picture: np.ndarray) -> str:
    small = Image.fromarray(picture)
    small.thumbnail((THUMB, THUMB))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
