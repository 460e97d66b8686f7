"""The explorer: pictures, layers and affinities of a model, live in a notebook.

``state.py`` is what the controls say; ``session.py`` computes what a state shows, by calls of the public functions;
``worker.py`` does so on a thread; ``controls.py`` are the widgets; ``tiles.py``, ``charts.py``, ``panes.py`` and
``picture.py`` draw; ``live.py`` and ``offline.py`` get the drawings into a page; ``widget.py`` joins them.
"""

from .state import State
from .widget import Explorer

__all__ = ["Explorer", "State"]
