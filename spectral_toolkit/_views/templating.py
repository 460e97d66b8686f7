"""Pages from templates: every name is escaped, and only our own script can run, by its hash."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__
from .._render.colour import DIVERGING, SEQUENTIAL, css_gradient

_TEMPLATES = "templates"


def render(
    name: str, *, title: str, styles: tuple[str, ...] = (), scripts: tuple[str, ...] = (), **values: object
) -> str:
    """Render ``name``.html.j2 with ``values``.

    Its style is our design, that of all pages, and then ``name``.css, its script ``name``.js, or those given.
    """
    environment = Environment(
        loader=PackageLoader("spectral_toolkit._views", _TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    program = "".join(_read(f"{script}.js") for script in scripts or (name,))
    return environment.get_template(f"{name}.html.j2").render(
        version=__version__,
        title=title,
        signs=css_gradient(DIVERGING),
        amounts=css_gradient(SEQUENTIAL),
        style=Markup("".join(_read(f"{style}.css") for style in ("design", "page", *(styles or (name,))))),
        script=Markup(program),
        # This script alone may run, and not one that a name might smuggle in.
        script_hash=base64.b64encode(hashlib.sha256(program.encode()).digest()).decode("ascii"),
        **values,
    )


def _read(name: str) -> str:
    return files("spectral_toolkit._views").joinpath(_TEMPLATES, name).read_text(encoding="utf-8")
