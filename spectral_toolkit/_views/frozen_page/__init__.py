"""The frozen page: the explorer as one HTML file in which to switch, tap and compare without Python or a network."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import cast

from ..._affinity.presets import PRESETS
from ..._affinity.table import SCOPES, several_kinds
from ..._compute.arguments import choice
from ..._compute.settings import computing
from ..._explorer.precomputed import Content, precompute
from ..._explorer.source import open_source
from ..._explorer.state import State
from ..._io.outputs import local_path, write_whole
from ..._render.composite import check_opacity, check_threshold
from ..._render.underlay import shown_pictures
from ...errors import SpectralToolkitError
from ..report_data import kind_of, provenance
from .document import contact_sheet, document, tabs

__all__ = ["FrozenPage", "freeze"]

_GENERATOR = b'name="generator" content="spectral_toolkit'


class FrozenPage:
    """A frozen page, which a notebook shows with and without a kernel.

    Attributes
    ----------
    html
        The whole page.
    """

    def __init__(self, html: str, sheet: bytes, title: str, height: int) -> None:
        self.html = html
        self._sheet = sheet
        self._title = title
        self._height = height

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to a file, which may replace an earlier frozen page but nothing else.

        Raises
        ------
        SpectralToolkitError
            If another file is there.
        """
        target = local_path(path)
        _refuse_foreign(target)
        write_whole(target, self.html.encode())
        return target

    def _repr_html_(self) -> str:
        # One notebook may hold several of these: each has a document of its own, so that it cannot disturb the others.
        # In a notebook that is not trusted, Jupyter removes the frame, and also the attribute 'popover' around the
        # still image, which a browser hides until then: the image then stands in for the frame.
        page = self.html.replace("&", "&amp;").replace("'", "&#39;")
        title = escape(self._title)
        still = base64.b64encode(self._sheet).decode("ascii")
        return (
            f"<iframe title=\"{title}\" sandbox='allow-scripts' loading='lazy' "
            f"style='width:100%;height:{self._height}px;border:0;border-radius:8px;resize:vertical' srcdoc='{page}'>"
            f'</iframe><div popover><img alt="{title}: the images and their first eigenvectors" '
            f"src='data:image/png;base64,{still}'></div>"
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, object]:
        return {"text/html": self._repr_html_(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"<FrozenPage: {self._title}, {len(self.html) / 1e6:.1f} MB; .save(path) writes it to a file>"


@computing
def freeze(
    source: object,
    images: object = None,
    path: str | os.PathLike[str] | None = None,
    *,
    scope: str = "image",
    kinds: str | Sequence[str] = ("qk", "vv"),
    presets: Sequence[str] | Mapping[str, Mapping[str, float]] = PRESETS,
    kernel: str | Mapping[str, str] | None = None,
    n_eigenvectors: int = 10,
    regions: bool = True,
    n_segments: int | str = "auto",
    row_bytes: int = 4 * 2**20,
    device: str = "auto",
    seed: int = 0,
    start: Mapping[str, object] | None = None,
    options: Mapping[str, float] | None = None,
    opacity: float = 0.7,
    max_side: int = 512,
    title: str | None = None,
    height: int = 760,
    progress: bool = True,
) -> FrozenPage:
    """Make a frozen page: the explorer without Python, with switches, eigenvectors and affinity rows in one file.

    Parameters
    ----------
    source
        Activations from ``st.capture``, a bundle from ``st.load_bundle``, or a model: what ``st.load_model`` returned,
        or anything it takes.
    images
        Anything ``st.load_images`` takes. With activations or a bundle it may be left out, or be the original images,
        which are sharper than what the model saw.
    path
        Where to write the page; None only returns it. It may replace an earlier frozen page, but nothing else.
    scope
        ``"image"``: every image is solved alone. ``"dataset"``: all images are solved as one; they share eigenvectors
        and colours, a tap shows the affinities to the patches of every image, and the cloud has the patches of all.
    kinds
        Affinities to switch between.
    presets
        Choices of layers to switch between: ``"all"``, ``"early"``, ``"middle"``, ``"late"``, or a mapping from any
        names to layer weights.
    kernel
        One kernel for all affinities, or a mapping from kind to kernel; None takes the default of each.
    n_eigenvectors
        How many eigenvectors to compute, besides the trivial constant one.
    regions
        Whether to find segments and instances too, which takes most of the time.
    n_segments
        As in ``st.segment``.
    row_bytes
        How many bytes the affinity rows may take before compression: this decides for how many patches they are kept. 0
        keeps none.
    device, seed
        As in ``st.solve``.
    start
        What is shown first: any of ``image`` (a position), ``kind``, ``preset``, ``component``, ``view``
        (``"component"``, ``"grid"``, ``"rgb"``, ``"segments"``, ``"instances"``, ``"spectrum"``, ``"cloud"``,
        ``"norms"``, or one that was registered), ``smooth``, ``compare``, ``other_kind`` and ``other_preset`` of the
        second setting, ``threshold`` (of :func:`spectral_toolkit.overlay`), and ``patch`` (row, column).
    options
        Values of the sliders that registered views have of their own.
    opacity, max_side, title
        As in ``st.report``.
    height
        Height of the frame in a notebook, in screen pixels.
    progress
        Whether to show progress bars.

    Returns
    -------
    FrozenPage
        A notebook shows it where it is the last line of a notebook cell, also after the notebook was saved or
        converted.

    Raises
    ------
    SpectralToolkitError
        If the source is none of these, or ``path`` is another file.

    Examples
    --------
    >>> import spectral_toolkit as st
    >>> page = freeze("scenes", st.scenes.sample(1, seed=0).pixels, n_eigenvectors=2, device="cpu")
    >>> page.html[:15]
    '<!doctype html>'
    """
    check_opacity(opacity)
    if path is not None:
        _refuse_foreign(local_path(path))
    opened = open_source(source, images, seed=seed, progress=progress)
    activations = opened.activations
    content = precompute(
        activations,
        scope=choice("scope", scope, SCOPES),
        kinds=several_kinds(kinds),
        presets=presets,
        kernel=kernel,
        n_eigenvectors=n_eigenvectors,
        regions=regions,
        n_segments=n_segments,
        row_bytes=row_bytes,
        device=device,
        seed=seed,
        options=options,
    )
    first = content.settings[0].eig
    shown = list(shown_pictures(opened.images, first, max_side=max_side))
    heading = title or f"What {provenance(activations, first).get('model') or 'the model'} groups together"
    page = document(
        content,
        shown,
        title=heading,
        opacity=opacity,
        start=_checked_start(start or {}, content, len(shown)),
    )
    labels = " and ".join(kind_of(content.setting(kind, content.presets[0]).eig, kind).label for kind in content.kinds)
    made = FrozenPage(page, contact_sheet(content, shown, opacity), f"{heading}: {labels}", height)
    if path is not None:
        made.save(path)
    return made


def _checked_start(start: Mapping[str, object], content: Content, n_images: int) -> dict[str, object]:
    kinds, presets, eig = content.kinds, content.presets, content.settings[0].eig
    components = [int(number) for number in eig.coords["component"].values]
    allowed: dict[str, Sequence[object]] = {
        "image": range(n_images),
        "kind": kinds,
        "preset": presets,
        "component": components,
        "view": list(tabs(content)),
        "compare": [False, True],
        "smooth": [False, True],
        "other_kind": kinds,
        "other_preset": presets,
    }
    for name, value in start.items():
        if name == "threshold":
            check_threshold(value)  # pyright: ignore[reportArgumentType]
        if name in ("patch", "threshold"):
            continue
        if name not in allowed:
            raise SpectralToolkitError(f"start has no {name!r}: it may hold {', '.join(allowed)}, threshold and patch.")
        if value not in allowed[name]:
            raise SpectralToolkitError(
                f"start cannot have {name}={value!r}: use one of {', '.join(map(repr, list(allowed[name])[:12]))}."
            )
    patch = cast("tuple[int, int] | None", start.get("patch"))
    fits = patch is None or (len(patch) == 2 and 0 <= patch[0] < eig.sizes["y"] and 0 <= patch[1] < eig.sizes["x"])
    if not fits:
        raise SpectralToolkitError(
            f"start cannot have patch={patch!r}: give a row below {eig.sizes['y']} and a column below {eig.sizes['x']}."
        )
    position = [(patch[0] + 0.5) / eig.sizes["y"], (patch[1] + 0.5) / eig.sizes["x"]] if patch else None
    chosen = {"image": 0, "kind": kinds[0], "preset": presets[0], "component": components[0], "view": State.view}
    chosen = {**chosen, "compare": False, "smooth": False, "threshold": None, **start, "patch": position}
    beside = kinds[(kinds.index(str(chosen["kind"])) + 1) % len(kinds)]
    return {"other_kind": beside, "other_preset": chosen["preset"], **chosen}


def _refuse_foreign(path: Path) -> None:
    if path.is_dir():
        raise SpectralToolkitError(f"path={str(path)!r} is a folder: give the name of a file, such as 'explorer.html'.")
    if path.is_symlink() or path.exists():
        head = path.read_bytes()[:2000] if path.is_file() else b""
        if path.is_symlink() or not re.search(_GENERATOR, head):
            raise SpectralToolkitError(
                f"{str(path)!r} exists and was not written by spectral_toolkit: choose another path; nothing was "
                "touched."
            )
