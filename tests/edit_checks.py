"""What tests of interventions have in common: an edit of every number, and edits that change nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import spectral_toolkit as st

QUANTITIES = ("query", "key", "value")


def nudged(layer: str, tensor: torch.Tensor) -> torch.Tensor:
    """Every patch, channel and head by another factor: what is put back into a wrong place is another number."""
    factors = torch.ones(())
    for axis, size in enumerate(tensor.shape[1:], 1):
        side = torch.linspace(0.6, 1.2 + 0.1 * axis, size).view(-1, *[1] * (tensor.ndim - 1 - axis))
        factors = factors * side
    return tensor * factors.to(tensor)


def check_same(one: Any, other: Any) -> None:
    """Every number of one tree is that of the other, to the last bit."""
    for path, node in one.subtree_with_keys:
        for name in node.data_vars:
            np.testing.assert_array_equal(node[name].to_numpy(), other[path][name].to_numpy(), err_msg=f"{path} {name}")


def check_unedited(model: Any, pixels: Any, captured: Any, **settings: Any) -> None:
    """No edit, and an exchange with oneself, change nothing."""
    plain = st.intervene(model, pixels, progress=False, **settings)
    check_same(captured, plain)
    for donors in (pixels, captured):
        check_same(plain, st.intervene(model, pixels, st.exchange(QUANTITIES, donors), progress=False, **settings))


def check_edited(captured: Any, edited: Any) -> None:
    """The first layer is edited where it stands, the last one sees what became of it."""
    first, last = (list(captured.children)[index] for index in (0, -1))
    for name in QUANTITIES:
        before, after = (torch.from_numpy(tree[first][name].to_numpy()) for tree in (captured, edited))
        before, after = (one.reshape(-1, *one.shape[-4:]) for one in (before, after))
        wanted = nudged(first, before)
        assert torch.allclose(after, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max())), name
        if last != first:
            assert not np.array_equal(edited[last][name], captured[last][name])
