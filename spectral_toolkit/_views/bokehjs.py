"""The script that puts BokehJS and Panel's models into a page, from the installed packages.

Where Panel's own loader finds a BokehJS of the right version without Panel's models (as jupyter_bokeh and
``bokeh.io.output_notebook`` leave it), it loads both again and then puts the old one back: from then on no HoloViews
figure of that page is drawn. This script adds to a page only what it lacks. It can therefore be run in any order and
any number of times, by several notebooks in one page and beside other loaders, and changes nothing in a complete page.
"""

from __future__ import annotations

import base64
import gzip
from functools import cache
from pathlib import Path

import bokeh
import panel
from bokeh.resources import Resources

IS_WHOLE = f"(one) => Boolean(one && one.version === {bokeh.__version__!r} && one.Panel)"
"""JavaScript: whether a Bokeh has the version of the installed package, and Panel's models."""

_BOKEH = ("bokeh", "bokeh-gl", "bokeh-widgets", "bokeh-tables")

_SCRIPT = """(async () => {
  const version = "%(version)s", whole = %(whole)s;
  const text = async (packed) => {
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(unpacked).text();
  };
  // A page with RequireJS would pass the libraries to that, and leave the window without them.
  const run = (library) => new Function("define", "module", "exports", library).call(window);
  if (!whole(window.Bokeh)) {
    const [core, models] = await Promise.all(["%(core)s", "%(models)s"].map(text));
    // From here on nothing else runs in the page, and what was loaded meanwhile stays.
    if (!whole(window.Bokeh)) {
      const other = window.Bokeh;
      if (!(other && other.version === version && other.Widgets && other.Tables)) {
        window.Bokeh = undefined;
        run(core);
        // Figures of another version, from another kernel in this page, continue to be drawn by their own.
        if (other) window.Bokeh.versions = new Map([...(other.versions || []), [other.version, other]]);
      }
      run(models);
    }
  }
  %(then)s
})();"""


def load_script(then: str = "") -> str:
    """JavaScript that puts BokehJS and Panel's models into a page where they are missing, and then runs ``then``."""
    core, models = _libraries()
    words = {"version": bokeh.__version__, "whole": IS_WHOLE, "core": core, "models": models, "then": then}
    return _SCRIPT % words


@cache
def _libraries() -> tuple[str, str]:
    """BokehJS and Panel's models for it, packed."""
    core = "\n".join(Resources("inline", components=list(_BOKEH)).js_raw)
    models = (Path(panel.__file__).parent / "dist" / "panel.min.js").read_text(encoding="utf-8")
    return _packed(core), _packed(models)


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode("ascii")
