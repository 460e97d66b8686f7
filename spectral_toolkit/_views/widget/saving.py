"""The buttons below the explorer: what they save, copy and load."""

from __future__ import annotations

import html
import os
from collections.abc import Callable
from pathlib import Path
from typing import Unpack

import ipywidgets as widgets

from ..._explorer import wording
from ..._explorer.session import Session, questions
from ..._explorer.sources import open_session
from ..._explorer.start import PageSettings, fitting, freezing_settings, refuse_two, state_of
from ..._explorer.state import State, checked
from ..._io.bundles import load_bundle, save_bundle
from ..._io.outputs import local_path
from ...errors import SpectralToolkitError
from ..frozen_page import FrozenPage, freeze
from . import save, words
from .boxes import auto, box
from .held import Held


class Saving(Held):
    """The part of `Explorer` that is about these buttons; ``self`` is the explorer."""

    def save_bundle(self, path: str | os.PathLike[str]) -> Path:
        """Save activations, eigenvectors of all images, the images and the state; see ``st.save_bundle``."""
        refuse_two(self._session)
        answers = {}
        for question, suffix in zip(questions(self._state, self._session.facts), ("", "_other"), strict=False):
            answers[f"{question.affinity}{suffix}"] = self._session.solved_for_all(question)
        pictures = None if self._session.pictures is self.activations else self._session.pictures
        return save_bundle(
            path, self.activations, eigenvectors=answers, images=pictures, settings=self._state.to_dict()
        )

    def to_html(self, path: str | os.PathLike[str] | None = None, **settings: Unpack[PageSettings]) -> FrozenPage:
        """Make a frozen page, which can be explored without Python or a network; see ``st.freeze``.

        Parameters
        ----------
        path
            Where to write it; None only returns the page, for a notebook to show.
        **settings
            Keyword arguments of ``st.freeze``; the defaults are what the explorer shows now.
        """
        return freeze(self.activations, path=path, **(freezing_settings(self._state, self._session) | settings))

    def _buttons(self) -> widgets.VBox:
        self._path = widgets.Text(
            value="explorer", description="File", tooltip=wording.TIPS["path"], layout=widgets.Layout(width="240px")
        )
        actions: dict[str, tuple[str, Callable[[], str | None]]] = {
            "code": ("Copy as code", self._copy_code),
            "png": ("Save PNG", lambda: save.saved(self.save_figure(f"{self._path.value}.png"))),
            "svg": ("Save SVG", lambda: save.saved(self.save_figure(f"{self._path.value}.svg"))),
            "pdf": ("Save PDF", lambda: save.saved(self.save_figure(f"{self._path.value}.pdf"))),
            "html": ("Save HTML", self._save_html),
            "save": ("Save to restore", lambda: self._save()),
            "bundle": ("Save bundle", self._save_bundle),
            "load": ("Load bundle", self._load_bundle),
        }
        buttons = []
        for name, (label, action) in actions.items():
            button = widgets.Button(description=label, tooltip=wording.TIPS[name], layout=auto())
            button.on_click(lambda _, action=action: self._try(action))
            buttons.append(button)
        self._html_button = buttons[list(actions).index("html")]
        self._code = widgets.Textarea(
            layout=widgets.Layout(width="98%", height="220px", display="none"), tooltip="The code to select and copy."
        )
        row = box("st-wrapped", buttons[0], self._path, *buttons[1:], self._add_button())
        self._done = widgets.HTML()
        return box("st-saving", row, self._done, self._code)

    def _copy_code(self) -> str:
        self._code.value = self.code()
        self._code.layout.display = None
        self._loader.copy(self._code.value)
        return "The code is below, and on the clipboard if the browser allows it."

    def _save_html(self) -> None:
        path = save.free_path(self._path.value, ".html")
        activations, settings = self.activations, freezing_settings(self._state, self._session)

        def make() -> str:
            freeze(activations, path=path, **settings)
            return f"{save.saved(path)} Open it in any browser, with or without Python."

        self._html_button.disabled, self._html_button.description = True, "Saving HTML ..."
        self._tell("The page is being made, which may take a minute. You can continue meanwhile.")
        self._page_maker.ask(make)

    def _page_made(self, _asked: object, text: str | None, error: Exception | None) -> None:
        self._html_button.disabled, self._html_button.description = False, "Save HTML"
        self._tell(text or words.reason(error), "error" if error else "ok")

    def _save(self) -> str:
        path = self.save(self._path.value)
        return f"{save.saved(path)} After a restart of the kernel, st.Explorer.restore opens it without a new capture."

    def _save_bundle(self) -> str:
        path = save.free_path(self._path.value, ".zip")
        return (
            f"{save.saved(self.save_bundle(path))} Open it with st.Explorer.from_bundle or with the button Load bundle."
        )

    def _load_bundle(self) -> str:
        path = local_path(self._path.value.strip())
        if not path.exists() and path.with_name(f"{path.name}.zip").exists():
            path = path.with_name(f"{path.name}.zip")
        bundle = load_bundle(path)
        session = open_session(bundle.activations, self._session.device, bundle.pictures)
        state = checked(fitting(state_of(bundle), session), session.facts)
        self._start_anew(session, None, state, save.in_full(path))
        return f"Opened {path}."

    def _start_anew(self, session: Session, source: str | None, state: State, bundle: str | None = None) -> None:
        """Explore something else in the same place of the page; the name of the file stays."""
        text = self._path.value
        self._end()
        self._start(session, source, state, bundle)
        self._path.value = text

    def _try(self, action: Callable[[], str | None]) -> None:
        self._tell("One moment ...")  # the page receives it before the work begins
        try:
            text = action()
        except SpectralToolkitError as error:
            self._tell(str(error), "error")
        else:
            if text is not None:
                self._tell(text)

    def _tell(self, text: str, kind: str = "ok") -> None:
        """Show the outcome of a button."""
        self._done.value = f'<span class="st-{kind}">{html.escape(text)}</span>'
