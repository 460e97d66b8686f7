"""Images that are added to an explorer: by Python, by a button, or dropped onto it."""

from __future__ import annotations

import base64
import binascii
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import ipywidgets as widgets

from ..._explorer import wording
from ..._explorer.adding import add_images
from ..._explorer.source import Source
from ..._explorer.sources import open_session
from ..._explorer.start import fitting
from ..._explorer.state import checked
from ...errors import SpectralToolkitError
from . import words
from .boxes import auto
from .held import Held


class Adding(Held):
    """The part of `Explorer` that takes further images; ``self`` is the explorer."""

    _dropped: tempfile.TemporaryDirectory[str] | None = None
    """Files that came from the page: images are read when they are needed, so they stay as long as the explorer."""
    _awaited: list[Path]
    """Files of which no image has been captured yet."""

    def add_images(self, images: object) -> None:
        """Capture further images with the explorer's model, and show the first of them.

        The same happens to image files that are dropped onto the explorer, or chosen with *Add images*.

        Parameters
        ----------
        images
            Anything ``st.load_images`` takes.

        Raises
        ------
        SpectralToolkitError
            If the explorer was given activations and no model, compares two captures, or has labels; or if these are
            no images.
        """
        self._take(add_images(self._session, images))

    def _add_button(self) -> widgets.Button:
        """A button for the script of the page, which has the browser ask for files."""
        button = widgets.Button(description="Add images", tooltip=wording.TIPS["add"], layout=auto())
        button.add_class("st-add")
        return button

    def _add_said(self, said: Mapping[str, object]) -> None:
        """Add files that were dropped or chosen: the page sends name and content, the latter as a data URL."""
        if isinstance(size := said.get("too_large"), int | float):
            self._tell(
                f"The files have {size / 2**20:.0f} MB, and a page sends at most 6 MB at once: choose fewer, or call "
                "explorer.add_images(path).",
                "error",
            )
            return
        images = said.get("images")
        try:
            contents = [
                (str(one["name"]), base64.b64decode(str(one["content"]).partition(",")[2], validate=True))
                for one in (images if isinstance(images, list) else ())
            ]
        except (KeyError, TypeError, binascii.Error):
            self._tell("The files did not arrive whole: choose them once more.", "error")
        else:
            self._add_files(contents)

    def _add_files(self, files: Sequence[tuple[str, bytes]]) -> None:
        if self._dropped is None:
            self._dropped = tempfile.TemporaryDirectory(prefix="spectral-toolkit-images-")
        folder = Path(tempfile.mkdtemp(dir=self._dropped.name))
        for place, (name, content) in enumerate(files):
            path = folder / str(place) / file_name(name)
            path.parent.mkdir()
            path.write_bytes(content)
            self._awaited.append(path)
        # A capture that is under way begins anew with these, too: the worker forgets what it was asked before.
        session, paths = self._session, tuple(self._awaited)
        self._tell("The images are being captured. You can continue meanwhile.")
        # The files go when the explorer is closed, so copied code does not name them.
        self._adder.ask(lambda: replace(add_images(session, paths), expression=None))

    def _added(self, _asked: object, source: Source | None, error: Exception | None) -> None:
        self._awaited.clear()
        if source is None:
            folder = re.escape(self._dropped.name) if self._dropped is not None else "$"
            self._tell(re.sub(rf"{folder}[\\/][^\\/]+[\\/]\d+[\\/]", "", words.reason(error)), "error")
            return
        try:
            self._take(source)
        except SpectralToolkitError as refused:
            self._tell(str(refused), "error")

    def _take(self, source: Source) -> None:
        """Go on with more images: the state stays, but for the image, and undo goes back beyond the change."""
        before, history = self._state, self._history
        n_before = len(self._session.facts.images)
        session = open_session(source.activations, self._session.device, source.images, None, source.live)
        state = fitting(replace(before, image=n_before, patch=None, selection=()), session)
        self._start_anew(session, source.expression, checked(state, session.facts))
        self._history = history
        history.add(before, self._state)
        self._go_to(None)
        added = session.facts.images[n_before:]
        self._tell(f"Added {', '.join(added)}." if len(added) < 4 else f"Added {len(added)} images.")


def file_name(name: str) -> str:
    """The name of a file from a page as one that every file system takes, and that leads nowhere else.

    Examples
    --------
    >>> file_name("../../my cat.png"), file_name(".."), file_name("a:b?.png")
    ('my cat.png', 'image', 'a_b_.png')
    """
    last = re.split(r"[\\/]", name)[-1]
    return re.sub(r"[^\w .()-]", "_", last)[-60:].strip(" .") or "image"
