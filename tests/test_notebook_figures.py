"""Figures in a notebook: nothing comes from a server, and BokehJS is in every page that shows one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import holoviews as hv
import IPython.display
import nbformat
import numpy as np
import pytest
import xarray as xr
from eigen_fixtures import activations, eigenvectors
from notebook_outputs import remote_resources

import spectral_toolkit as st
from spectral_toolkit._views import bokeh_sent
from spectral_toolkit._views.notebook import load_bokeh


@pytest.fixture
def run_cell(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs code as a cell of a page; gives how often BokehJS was sent meanwhile."""
    load_bokeh()  # what it does the first time is for all pages
    sent: list[bool] = []

    def publish(data: dict[str, str]) -> None:
        sent.extend("DecompressionStream" in script for kind, script in data.items() if "javascript" in kind)

    monkeypatch.setattr(IPython.display, "publish_display_data", publish)
    monkeypatch.setattr(bokeh_sent, "_sent", {})
    shell = SimpleNamespace(parent_header={})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    requests = iter(range(100))

    def run(code: Callable[[], object], cell: str, page: str = "page") -> int:
        header = {"msg_type": "execute_request", "session": page, "msg_id": str(next(requests))}
        shell.parent_header = {"header": header, "metadata": {"cellId": cell} if cell else {}}
        sent.clear()
        code()
        assert all(sent), "from the installed package"
        shell.parent_header = {"header": {**header, "msg_type": "comm_msg"}}
        code()
        return len(sent)

    return run


def plain() -> None:
    hv.renderer("bokeh").components(hv.Curve([1, 2]))


def overlaid() -> None:
    hv.renderer("bokeh").components(st.overlay(activations(), eigenvectors(), image=0, component=1))


@pytest.mark.parametrize("figure", [plain, overlaid])
def test_bokehjs_is_sent_once_a_page_and_again_where_its_output_was_replaced(
    run_cell: Callable[..., int], figure: Callable[[], None]
) -> None:
    assert run_cell(figure, "a") == 1
    assert run_cell(figure, "b") == 0
    assert run_cell(figure, "a") == 1, "the output that held it has gone"
    assert run_cell(figure, "b", "opened again") == 1
    assert run_cell(figure, "a", "opened again") == 0
    assert run_cell(figure, "b", "opened again") == 1
    assert run_cell(figure, "a") == 1
    assert run_cell(figure, "", "a console") == 1
    assert run_cell(figure, "", "a console") == 0


def test_an_overlay_without_its_figure_counts_as_well_and_hv_extension_does_not(run_cell: Callable[..., int]) -> None:
    assert run_cell(lambda: st.overlay(activations(), eigenvectors()), "a") == 1
    assert run_cell(plain, "b") == 0
    assert run_cell(lambda: hv.extension("bokeh", inline=True), "c", "second") == 0
    assert run_cell(plain, "d", "second") == 1, "Panel's loader may have loaded nothing, or may lose what it loads"
    assert run_cell(st.extension, "e", "second") == 1, "asked for"
    scores = xr.Dataset({"where": (("kind", "layer"), np.ones((1, 1)))}, {"kind": ["qk"], "layer": ["joint"]})
    assert run_cell(lambda: st.heat_map(scores, names=("where",)), "c", "third") == 1


def test_outside_a_notebook_nothing_is_sent(run_cell: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    for shell in (None, SimpleNamespace()):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert bokeh_sent.current_run() is None
        assert run_cell(overlaid, "a") == 0


def test_a_link_to_a_server_in_an_output_is_noticed() -> None:
    html = {"text/html": '{\\"url\\":\\"https://cdn.holoviz.org/panel/1.8/dist/css/loading.css?v=1\\"}'}
    library = {"application/javascript": "https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-svg.js"}
    cells = [
        nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", data=data)])
        for data in (html, library)
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("https://a.b/c.css"), *cells])
    assert remote_resources(notebook) == {"https://cdn.holoviz.org/panel/1.8/dist/css/loading.css"}
