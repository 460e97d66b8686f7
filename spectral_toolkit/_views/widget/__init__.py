"""The explorer: pictures, layers and affinities of a model, live in a notebook.

``state.py`` is what the controls say; ``session.py`` computes what a state shows, by calls of the public functions;
``worker.py`` does so on a thread; ``controls.py`` are the widgets; ``tiles.py``, ``charts.py``, ``panes.py`` and
``picture.py`` draw; ``live.py`` and ``offline.py`` get the drawings into a page; ``widget.py`` joins them.
"""

from importlib.util import find_spec

from ...errors import SpectralToolkitError

for _needed in ("ipywidgets", "jupyter_bokeh"):
    if find_spec(_needed) is None:
        raise SpectralToolkitError(
            f"The explorer needs {_needed}, which is not installed: pip install 'spectral-toolkit[notebooks]'."
        )

from ..._explorer.state import State  # noqa: E402
from .explorer import Explorer  # noqa: E402

__all__ = ["Explorer", "State"]
