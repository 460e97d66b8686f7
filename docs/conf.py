"""How the documentation site is built: ``make docs``. Nothing is fetched, neither while building nor while reading.

Sphinx would look up other projects' names, load MathJax and load the widgets' scripts over the network. Instead names
of other projects stay plain text, formulas are MathML, which browsers draw by themselves, and the only script of ours
copies code.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

from docutils.nodes import SkipNode  # noqa: E402
from docutils.utils.math import latex2mathml  # noqa: E402
from site_notebooks import copy_notebooks  # noqa: E402

import spectral_toolkit  # noqa: E402

project = "spectral_toolkit"
author = "the authors of spectral_toolkit"
copyright = "2026, the authors of spectral_toolkit"
version = release = spectral_toolkit.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["notebooks/labs/solutions/**", "teaching/slides.ipynb", "**/.ipynb_checkpoints", "_templates"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

# Markdown. Every heading can be linked to; formulas stand between dollars.
myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
suppress_warnings = [
    "myst.header",  # a notebook or a table of contents may begin below the first level
    "mystnb.unknown_mime_type",  # what notebooks hold beside the outputs that are shown
]

# Notebooks are executed by the tests. What they left in out/notebooks is shown with its outputs, others without.
nb_execution_mode = "off"
nb_ipywidgets_js = {}

# The reference.
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
napoleon_google_docstring = False
napoleon_use_rtype = False
# One page for each function, with the figure that make_gallery.py drew by it, where there is one.
autosummary_generate = True
autosummary_context = {"drawn": {path.stem for path in (DOCS / "images" / "gallery").glob("*.png")}}
templates_path = ["_templates"]
# Names of other projects, which are looked up nowhere.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"('.*'|ndarray|xarray|xr|numpy|np|pandas|pd|torch|holoviews|hv|PIL|Image|pathlib|Path|collections\.abc|typing|os|datetime|jaxtyping)"
        r"(\..*)?",
    ),
    # Types of signatures that are not public have no page.
    (r"py:class", r"Keep|Weights|spectral_toolkit\._.*"),
]

html_theme = "furo"
html_title = f"spectral_toolkit {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["copy.js"]
html_show_sourcelink = False
html_copy_source = False


def _formula(translator: Any, node: Any, *, block: bool) -> None:
    """Write a formula as MathML, with its source for those who cannot see it."""
    translator.body.append(latex2mathml.tex2mathml(node.astext(), as_block=block))
    raise SkipNode


def _with_copies(app: Any, docname: str, source: list[str]) -> None:
    """A page's links to the repository's notebooks lead to their copies, which are what the site shows."""
    if "/" not in docname:
        source[0] = source[0].replace("](../notebooks/", "](notebooks/")


def setup(app: Any) -> None:
    """Register the formulas and put the notebooks where Sphinx finds them."""
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda translator, node: _formula(translator, node, block=False), None),
        block_renderers=(lambda translator, node: _formula(translator, node, block=True), None),
    )
    app.connect("source-read", _with_copies)
    app.connect("config-inited", lambda app, config: copy_notebooks(DOCS.parent, DOCS / "notebooks"))


html_math_renderer = "mathml"
