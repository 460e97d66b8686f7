"""The explorer: images, layers and affinities of a model, live in a notebook.

The engine is ``_explorer``: its ``state.py`` holds the settings of the controls, ``session.py`` computes what a state
shows, and ``worker.py`` does so on a thread. Here ``controls.py`` makes the widgets; ``tiles.py``, ``charts.py``,
``figures.py`` and ``still.py`` draw; ``live.py`` and ``offline.py`` get the drawings into a page; ``explorer.py`` joins
them.
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
