"""Where things run, and with how many threads."""

from __future__ import annotations

import pytest
import torch
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit._compute.devices import resolve_device, threads_for, working_dtype
from spectral_toolkit.errors import SpectralToolkitError


def test_auto_takes_what_there_is():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto").type == expected
    assert resolve_device(torch.device("cpu")).type == "cpu"


@pytest.mark.parametrize(
    ("device", "sentence"),
    [("abacus", "is not a device name"), ("cuda:99", "is not available on this machine"), ("meta", "is not available")],
)
def test_devices_that_are_not_here_are_refused(device, sentence):
    with pytest.raises(SpectralToolkitError, match=sentence):
        resolve_device(device)


def test_solves_are_double_precision_except_where_there_is_none():
    assert working_dtype(torch.device("cpu")) == torch.float64
    assert working_dtype(torch.device("mps")) == torch.float32


@pytest.mark.parametrize("fails", [False, True])
def test_small_solves_take_one_thread_and_put_the_number_back(fails, monkeypatch):
    seen = []

    def spy(*args, **kwargs):
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    if fails:
        monkeypatch.setattr("spectral_toolkit.solvers.exact.dense_pairs", spy)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        graph = st.affinity(make_tree([(3, 4)]), "vv", device="cpu")
        if fails:
            with pytest.raises(KeyboardInterrupt):
                st.solve(graph, 2)
            assert seen == [1]
        else:
            st.solve(graph, 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_large_problems_keep_their_threads():
    before = torch.get_num_threads()
    with threads_for(torch.device("cpu"), 100_000):
        assert torch.get_num_threads() == before
