"""Explorers that were closed leave nothing behind: objects are counted, as bytes are never quite the same."""

from __future__ import annotations

import gc
from collections import Counter

from explorer_fixtures import KeepingComm, capture_of

from spectral_toolkit.views.explorer import Explorer

KINDS = ("spectral_toolkit", "bokeh", "holoviews", "ipywidgets", "param", "pandas", "xarray", "comm.")


def counted() -> Counter[str]:
    gc.collect()
    kinds = (type(one) for one in gc.get_objects())
    # Of some classes the module is no text, but a descriptor.
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    return Counter(name for name in names if name.startswith(KINDS))


def test_many_explorers_opened_and_closed_leave_nothing(comms: type[KeepingComm]) -> None:
    tree = capture_of(images=1, layers=2)

    def play(times: int) -> None:
        for _ in range(times):
            explorer = Explorer(tree, device="cpu", synchronous=True)
            for view in ("grid", "spectrum", "layers", "norms"):
                explorer.set(view=view, patch=(1, 2))
            explorer.close()
            comms.everything.clear()

    play(2)  # what is made once for all is there then
    before, n = counted(), 5
    play(n)
    grown = {kind: (before[kind], count) for kind, count in counted().items() if count >= before[kind] + n}
    assert not grown, "so many before, and so many after"
