"""``st.Explorer``: one widget that joins controls, computation and figures. It holds no numbers of its own."""

from __future__ import annotations

import html
import math
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, Unpack

import ipywidgets as widgets
import xarray as xr
from PIL import Image

from ..._explorer import wording
from ..._explorer.changes import as_asked, changed
from ..._explorer.code import as_code
from ..._explorer.history import History
from ..._explorer.kept import open_kept, save_session
from ..._explorer.labels import Labels
from ..._explorer.session import Question, Session, ShownState, wanted
from ..._explorer.source import Source, open_sources
from ..._explorer.sources import SeveralSessions, open_session
from ..._explorer.sources_code import sources_code
from ..._explorer.start import first_state, fitting, refuse_two, state_of
from ..._explorer.state import State, as_state, checked
from ..._explorer.views import VIEWS
from ..._explorer.worker import Worker
from ..._io.bundles import load_bundle
from ..._io.reprs import Described, few
from ...errors import SpectralToolkitError
from ..save_figure import save_figure
from ..still_picture import side_by_side
from . import save, words
from .adding import Adding
from .boxes import auto, box, close_whole, inside
from .choosing import Choosing
from .controls import Controls
from .figures import ConnectedFigures, ExplorerFigures, Rows
from .held import ExplorerSettings
from .live import LiveFigure
from .offline import Loader, Stage
from .save import sheet
from .saving import Saving
from .still import Still
from .still_view import still_view
from .styles import fit, sheet_of_styles
from .unpicklable import Unpicklable

Made = TypeVar("Made")

PATIENCE = 0.15
"""How many seconds a change waits for its result before the image is dimmed and the notebook continues."""


class Explorer(Unpicklable, Adding, Choosing, Saving, Described, widgets.VBox):
    """Explore what the layers of a model group together, in a notebook.

    Every control has a field in `state`: assigning another state moves the controls and the image.

    Parameters
    ----------
    source
        Activations from ``st.capture``, a bundle from ``st.load_bundle``, or a model: what ``st.load_model`` returned,
        or anything it takes. Two of these in a list, ``[a, b]``, are compared: two models, two checkpoints or two
        timesteps of a denoiser, of the same images; the second is aligned to the first.
    images
        Anything ``st.load_images`` takes. With activations or a bundle it may be left out: their own images are shown
        then.
    state
        The first state, also as `State.to_dict` gives it; the default shows the first eigenvector of query-key affinity
        over all layers.
    scope
        ``"image"``: every image is solved alone. ``"dataset"``: all images are solved as one. The default is that of
        the state, where it is ``"image"``.
    layers, size, batch_size, seed, progress
        As ``st.capture`` takes them.
    labels
        A label map for every image, as ``st.prepare_labels`` takes them, or labelled images of ``st.datasets``: they
        can be laid over the images, and segments are scored by them.
    categories
        Names of the labels, the first that of label 0; the default are those that ``labels`` bring with them.
    device
        The device on which spectral problems are solved.
    synchronous
        Whether to compute in the foreground even where a notebook's event loop runs, for scripts and tests.
    solved
        For `restore`: what was solved before.

    Attributes
    ----------
    state : State
        What is shown. Assign ``dataclasses.replace(explorer.state, affinity="vv")`` or call `set`.
    activations : xarray.DataTree
        The capture that is explored.
    eigenvectors : xarray.Dataset
        The result that is shown, as ``st.solve`` gives it: of the chosen image, or of all images as one.
    selection : pandas.DataFrame
        The chosen patches, with their eigenvectors and segments. A DataFrame or a boolean DataArray can be assigned.

    Raises
    ------
    SpectralToolkitError
        If the model, the images, the labels or the state are not what is expected.

    Examples
    --------
    >>> import spectral_toolkit as st
    >>> explorer = Explorer("scenes", st.scenes.sample(2, seed=0).pixels, progress=False)
    >>> explorer.set(affinity="vv", component=2)
    >>> explorer.eigenvectors.attrs["affinity"]
    'vv'
    >>> explorer.close()
    """

    def __init__(
        self,
        source: object,
        images: object = None,
        *,
        state: State | Mapping[str, object] | None = None,
        scope: str | None = None,
        labels: object = None,
        categories: Sequence[str] | None = None,
        layers: str | Sequence[str | int] = "all",
        size: int | tuple[int, int] | None = None,
        batch_size: int = 8,
        seed: int = 0,
        device: str = "auto",
        progress: bool = True,
        synchronous: bool = False,
        solved: Sequence[tuple[Question, xr.Dataset]] = (),
    ) -> None:
        opened, *beside = open_sources(
            source, images, layers=layers, size=size, batch_size=batch_size, seed=seed, progress=progress
        )
        self._synchronous = synchronous
        known = None if labels is None else Labels(opened.activations, labels, categories)
        other, live = (beside[0].activations, beside[0].live) if beside else (None, None)
        session = open_session(opened.activations, device, opened.images, known, opened.live, other, live)
        chosen = first_state(state, scope, session)
        for question, eig in solved:
            session.seed(question, eig)
        super().__init__()
        self.add_class("st-explorer")
        self._start(session, opened.expression, chosen)

    @classmethod
    def from_bundle(cls, path: str | os.PathLike[str], **settings: Unpack[ExplorerSettings]) -> Explorer:
        """Explore what `save_bundle` saved, without a model, a GPU or a network.

        Parameters
        ----------
        path
            The path of the bundle.
        **settings
            ``state``, ``device`` and ``synchronous``, as above; the default state is the one in which the bundle was
            saved.
        """
        bundle = load_bundle(path)
        settings.setdefault("state", state_of(bundle))
        explorer = cls(bundle.activations, bundle.pictures, **settings)
        explorer._bundle = save.in_full(path)
        return explorer

    def _start(self, session: Session, source: str | None, state: State, bundle: str | None = None) -> None:
        self._session, self._source, self._state, self._bundle = session, source, state, bundle
        self._history = History()
        for old in [one for one in self._dom_classes if one.startswith("st-explorer-")]:
            self.remove_class(old)
        self._name = f"st-explorer-{uuid.uuid4().hex[:12]}"  # because one page may show explorers of several kernels
        self.add_class(self._name)
        self._answer: ShownState | None = None
        self._asked: object = None
        self._worker: Worker[State, ShownState] = Worker(
            session.answer, self._deliver, report=self._progress, synchronous=self._synchronous
        )
        # Pages have a thread of their own: they take a minute, and use nothing from which results are computed.
        self._page_maker: Worker[Callable[[], str], str] = Worker(_run, self._page_made, synchronous=self._synchronous)
        self._adder: Worker[Callable[[], Source], Source] = Worker(_run, self._added, synchronous=self._synchronous)
        self._awaited = []
        self._still = Still(self._name)
        before: Controls | None = getattr(self, "_controls", None)
        self._controls = Controls(session.facts, self._on_change, self._name)
        if before is not None:
            self._controls.channel.continue_from(before.channel)
        self._pictures = ExplorerFigures(self._on_change)
        self._rows: Rows | None = None
        self._connected: ConnectedFigures | None = None
        self._page_ready = False
        self.children = self._build()
        self._open = True
        self._controls.show(state)
        # The first view is computed at once, so that what is displayed is complete, with or without a thread.
        self._show(session.answer(state, lambda *_: None))

    @property
    def state(self) -> State:
        """What is shown; assign another state to change it."""
        return self._state

    @state.setter
    def state(self, state: State | Mapping[str, object]) -> None:
        wanted_now = checked(as_state(state), self._session.facts)
        self._history.add(self._state, wanted_now)
        self._go_to(wanted_now)

    def undo(self) -> None:
        """Go back to the state before the last change; a drag is one change."""
        self._go_to(self._history.back(self._state))

    def redo(self) -> None:
        """Take back what was undone last."""
        self._go_to(self._history.forth(self._state))

    def _go_to(self, state: State | None) -> None:
        if state is not None:
            self._state = state
            self._controls.show(state)
            self._controls.channel.tell(link=state.to_link(self._session.facts.layers))
            self._refresh()
        for button, states in ((self._undo, self._history.before), (self._redo, self._history.after)):
            if button.disabled == bool(states):
                button.disabled = not states

    def set(self, **changes: object) -> None:
        """Change some fields of the state, such as ``explorer.set(affinity="vv", component=2)``."""
        unknown = [name for name in changes if name not in State.__dataclass_fields__]
        if unknown:
            raise SpectralToolkitError(
                f"The state has no {unknown[0]!r}: its fields are {', '.join(State.__dataclass_fields__)}."
            )
        self.state = changed(self._state, changes, self._session.facts)

    @property
    def activations(self) -> xr.DataTree:
        """The capture that is explored."""
        return self._session.activations

    @property
    def eigenvectors(self) -> xr.Dataset:
        """The result that is shown: of the chosen image, or of all images where they are solved as one."""
        self._require_current()
        assert self._answer is not None
        return self._answer.sides[0].whole

    @property
    def is_busy(self) -> bool:
        """Whether the result for the present state is still awaited; meanwhile the image is dimmed."""
        return self._asked is not None

    def code(self) -> str:
        """Python code that computes what is shown, to be run in another kernel."""
        if isinstance(self._session, SeveralSessions):
            return sources_code(self._session, self._state, self._source, self._bundle)
        attrs = {str(name): value for name, value in self.activations.attrs.items()}
        return as_code(self._state, self._session.facts, attrs, self._source, self._bundle)

    def save_figure(self, path: str) -> str:
        """Save what is shown, as PNG, SVG or PDF by the ending; return the path, with a number if it was taken.

        SVG and PDF are figures for papers (:func:`spectral_toolkit.save_figure`): text, lines and colour bars are
        vectors, and the name of the image and what was solved stand above it. They need matplotlib:
        ``pip install 'spectral-toolkit[figures]'``.
        """
        ending = next((one for one in (".svg", ".pdf") if str(path).lower().endswith(one)), ".png")
        self._require_current()
        if ending != ".png":
            assert self._answer is not None
            facts = self._session.facts
            shown = still_view(replace(self._answer, state=self._state), facts.layers, facts.images[self._state.image])
            return str(save_figure(shown, save.free_path(str(path), ending)))
        if VIEWS[self._state.view].tiles is None:
            raise SpectralToolkitError(
                f"view={self._state.view!r} is a chart: save it with the disk icon in its toolbar, or show images."
            )
        return str(save.save_png(self._pictures.panels(), save.free_path(str(path), ending)))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the explorer for `restore`: its state, all that has been solved, and where the activations are.

        Activations that came from a store or a bundle stay there, and only their path is kept; others are written, too.

        Parameters
        ----------
        path
            A folder that ends in ``.zarr``; one that is there is never replaced, and the name gets a number instead.

        Returns
        -------
        Path
            The folder.
        """
        refuse_two(self._session)
        place = save.free_path(str(path), ".zarr")
        save_session(place, self._session, self._state, self._source, self._bundle)
        return place

    @classmethod
    def restore(
        cls, path: str | os.PathLike[str], *, activations: object = None, **settings: Unpack[ExplorerSettings]
    ) -> Explorer:
        """Explore what `save` saved, after a restart of the kernel: nothing is captured or solved again.

        Parameters
        ----------
        path
            The folder.
        activations
            Where the activations are by now, or the activations themselves, if they are no longer where they were.
        **settings
            ``state``, ``labels``, ``categories``, ``device`` and ``synchronous``, as above; the default state is the
            one in which the explorer was saved.
        """
        kept = open_kept(path, activations)
        settings.setdefault("state", kept.state)
        explorer = cls(kept.activations, kept.images, solved=kept.results, **settings)
        explorer._source, explorer._bundle = kept.expression, kept.bundle
        return explorer

    def _repr_mimebundle_(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, **kwargs: object
    ) -> dict[str, object]:
        """Display a still image, for pages that cannot show a widget, and the widget, with nothing in its place."""
        self._still.show(self._drawn)
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {"application/vnd.jupyter.widget-view+json": view, "text/html": " ", "text/plain": repr(self)}

    def _drawn(self) -> Image.Image:
        """The view as an image."""
        shown = [self._pictures.drawn()]
        if self._state.patch is not None and self._rows is not None:
            shown.append(sheet(self._rows.panels()))
        return side_by_side(shown)

    def _facts(self) -> dict[str, object]:
        if not getattr(self, "_open", False):
            return {"state": "closed"}
        facts, state = self._session.facts, self._state
        compared = f" beside {state.other_affinity}" if state.compare else ""
        return {
            "view": state.view,
            "affinity": f"{state.affinity}{compared}",
            "eigenvectors": state.n_eigenvectors,
            "images": few(facts.images),
            "layers": few(facts.layers),
        }

    def close(self) -> None:
        """Stop computing, and free widgets, figures, activations and results."""
        if sys.is_finalizing():  # ipywidgets closes what is left when Python ends, after the modules this would need
            return
        self._end()
        if self._dropped is not None:
            self._dropped.cleanup()
        self.unobserve_all()
        if self.comm is not None:
            self.layout.close()
        super().close()

    def _end(self) -> None:
        if not getattr(self, "_open", False):  # closed already, or never started because the input was refused
            return
        self._open = False
        self._still.close()
        self._worker.close()
        self._page_maker.close()
        self._adder.close()
        live = [widget for _, made in self._figures() for widget in made]
        for widget in [*live, *inside(self)]:
            close_whole(widget)
        self.children = ()
        self._session.close()
        self._answer = self._rows = self._connected = self._chosen_figures = None

    def _build(self) -> list[widgets.Widget]:
        session = self._session
        self._loader = Loader(self._name, self._fill)
        self._style, self._fit = (widgets.HTML(layout=widgets.Layout(display="none")) for _ in range(2))
        places = range(len(self._controls.thumbs))
        thumbs = [(session.small(place, 116), session.picture(place).aspect) for place in places]
        self._style.value = (
            f"<style>{sheet_of_styles()}{self._still.hidden}{self._controls.set_thumbnails(thumbs)}</style>"
        )
        self._busy = widgets.HTML('<span class="st-spin"></span>Solving ...')
        self._cancel = widgets.Button(description="Stop", tooltip=wording.TIPS["cancel"], layout=auto())
        self._cancel.on_click(lambda _: self._stop())
        self._bar = widgets.FloatProgress(max=1.0, layout=widgets.Layout(width="140px"))
        busy = widgets.HBox([self._busy, self._bar, self._cancel])
        busy.add_class("st-busy")
        self._busy_row = busy
        self._message = widgets.HTML()
        self._stage, self._connected_stage, self._rows_stage, self._chosen_stage = (Stage() for _ in range(4))
        for stage in (self._stage, self._connected_stage, self._rows_stage, self._chosen_stage):
            stage.add_class("st-stage")
        self._heads, self._scales, self._legend, self._facing = (widgets.HTML() for _ in range(4))
        self._row_head, self._connected_head = widgets.HTML(), widgets.HTML()
        self._legend.add_class("hint")
        for part, name in ((self._heads, "st-heads"), (self._facing, "st-facing")):
            part.add_class(name)
        row_line = box("st-wrapped", self._controls.heads, self._controls.untap)
        seen = box("st-seen", self._heads, self._stage, self._scales, self._legend)
        told = box(
            "st-rows",
            self._facing,
            self._chooser(),
            self._connected_head,
            self._connected_stage,
            self._row_head,
            row_line,
            self._rows_stage,
            self._nearest_words,
        )
        self._content = box("st-content", seen, told)
        self._undo, self._redo, keys, full = (
            widgets.Button(description=label, tooltip=wording.TIPS[name], layout=auto(), disabled=name.endswith("do"))
            for name, label in (("undo", "Undo"), ("redo", "Redo"), ("keys", "?"), ("full", "Full screen"))
        )
        self._undo.on_click(lambda _: self.undo())
        self._redo.on_click(lambda _: self.redo())
        keys.add_class("st-keys")
        full.add_class("st-full")
        actions = box("st-actions", self._undo, self._redo, keys, full)
        listed = widgets.HTML(words.keys())
        listed.add_class("st-key-list")
        main = box(
            "st-main", self._controls.above(actions, busy), listed, self._message, self._content, self._buttons()
        )
        return [self._style, self._fit, self._loader, box("st-body", self._controls.left(), main)]

    def _on_change(self, **changes: object) -> None:
        """Change the state as the user asked for with a control or a tap."""
        if "go" in changes:
            (self.undo if changes["go"] == "back" else self.redo)()
            return
        if "images" in changes or "too_large" in changes:
            self._add_said(changes)
            return
        if changes.pop("lowest_cut", False):
            lowest = self._lowest_cut()
            if lowest is None:
                return
            changes["threshold"] = lowest
        try:
            if "link" in changes:  # the app was opened, or reloaded, by a link that holds a state
                self.state = State.from_link(str(changes["link"]))
                return
            facts = self._session.facts
            self.state = fitting(changed(self._state, as_asked(self._state, changes, facts), facts), self._session)
        except SpectralToolkitError as error:
            self._say(str(error))
            self._controls.show(self._state)

    def _lowest_cut(self) -> float | None:
        """The threshold of the lowest normalised cut in the first setting; None where it is not known, or not yet."""
        costs = self._answer.sides[0].costs if self._answer is not None and self._is_current() else None
        best = math.nan if costs is None else float(costs["best"])
        return None if math.isnan(best) else best

    def _refresh(self) -> None:
        self._say("")
        self._done.value = ""
        if self._code.layout.display is None:  # the box is open, and follows what is shown
            self._code.value = self.code()
        answer = self._session.kept(self._state)
        if answer is not None:
            self._worker.cancel()
            self._show(answer)
            return
        now = wanted(self._state, self._session.facts)
        if now != self._asked:
            self._asked = now
            self._worker.ask(self._state, patience=PATIENCE)
            if self._asked is not None:
                self._mark_busy(now)

    def _deliver(self, _asked: State, answer: ShownState | None, error: Exception | None) -> None:
        if answer is not None:
            try:
                self._show(answer)
                return
            except SpectralToolkitError as drawing:
                error = drawing
        self._mark_busy(None)
        self._stale(True)
        self._say(f"{words.reason(error)} The image still shows the last result.")

    def _stop(self) -> None:
        self._worker.cancel()
        self._mark_busy(None)
        self._stale(True)
        self._say("Stopped: the image still shows the last result. Change any control to continue.")

    def _show(self, answer: ShownState) -> None:
        """Draw a result for the present state, with the present display settings."""
        state = self._state
        self._answer = answer
        seen = replace(answer, state=state)
        self._mark_busy(None)
        view = VIEWS[state.view]
        try:
            shown = [self._pictures.draw(view, seen, self._session.facts.layers)]
        except SpectralToolkitError:
            self._stale(True)
            raise
        if state.patch is not None:
            self._rows = self._rows or Rows(self._on_change)
            self._rows.show(answer)
            shown.append(self._rows.widget)
            if answer.sides[0].connected:
                self._connected = self._connected or ConnectedFigures(self._on_change)
                self._connected.show(answer)
                shown.append(self._connected.widget)
        shown += self._show_chosen(seen)
        self._display(shown)
        self._fit.value = fit(self._name, answer.picture.aspect, len(answer.sides))
        wide = len(answer.sides) > 1 or self._pictures.is_wide
        (self._content.add_class if wide else self._content.remove_class)("is-compare")
        self._heads.value = words.heads(state, answer.sides)
        self._scales.value = words.scales(state, answer.sides)
        self._legend.value = html.escape(wording.legend(state), quote=False)
        self._facing.value = words.facing(state, answer.sides, answer.distance)
        self._controls.cut_cost.value = wording.cut_cost(state, answer.sides)
        self._controls.lowest.disabled = self._lowest_cut() is None
        self._row_head.value = words.rows(state, answer.sides)
        self._connected_head.value = words.connected(answer.sides) if answer.sides[0].connected else ""
        self._stale(False)
        self._still.follow(self._drawn)

    def _figures(self) -> list[tuple[Stage, list[LiveFigure]]]:
        """Every part of the page that shows figures, and those made so far."""
        stages = {self._connected_stage: self._connected, self._rows_stage: self._rows}
        stages[self._chosen_stage] = self._chosen_figures
        below = [(stage, [] if one is None else [one.widget]) for stage, one in stages.items()]
        return [(self._stage, self._pictures.widgets), *below]

    def _display(self, shown: list[LiveFigure]) -> None:
        for stage, made in self._figures():
            for widget in made:
                display = None if any(widget is one for one in shown) else "none"
                if widget.layout.display != display:
                    widget.layout.display = display
            if self._page_ready and stage.children != tuple(made):
                stage.fill(made)

    def _fill(self) -> None:
        """Show the figures, because BokehJS is now in the page."""
        self._page_ready = True
        for stage, made in self._figures():
            stage.fill(made)

    def _mark_busy(self, asked: object) -> None:
        self._asked = asked
        if asked is not None:
            self._bar.value = 0.0
            self._stale(True)
            self._controls.lowest.disabled = True
            self._busy_row.add_class("st-on")
        else:
            self._busy_row.remove_class("st-on")

    def _progress(self, done: float) -> None:
        self._bar.value = done

    def _stale(self, stale: bool) -> None:
        stages = (self._stage, self._connected_stage, self._rows_stage, self._chosen_stage)
        for part in (*stages, self._controls.cut_cost):
            (part.add_class if stale else part.remove_class)("st-stale")

    def _say(self, text: str) -> None:
        self._message.value = f'<span class="st-error">{html.escape(text)}</span>' if text else ""

    def _is_current(self) -> bool:
        now = wanted(self._state, self._session.facts)
        return self._answer is not None and now == wanted(self._answer.state, self._session.facts)

    def _require_current(self) -> None:
        if not self._is_current():
            raise SpectralToolkitError(
                "The result for the present state is not ready yet: wait until explorer.is_busy is False."
            )


def _run(action: Callable[[], Made], _check: object) -> Made:
    return action()
