"""A frozen page of images that were solved as one: common colours and segments, and rows to every image."""

from __future__ import annotations

import numpy as np
import pytest
from eigen_fixtures import activations
from test_frozen import array, unpacked

import spectral_toolkit as st
from spectral_toolkit._explorer.patch_rows import Sources, all_joint_rows, all_layer_rows, choose_sources
from spectral_toolkit.errors import SpectralToolkitError

SETTINGS = {"scope": "dataset", "kernel": "shifted_cosine", "kinds": ["vv"], "presets": ["all"], "device": "cpu"}


def test_its_numbers_are_those_of_the_dataset() -> None:
    tree = activations(names=("a", "b"))
    page = st.freeze(tree, n_eigenvectors=3, n_segments=3, **SETTINGS)
    head, data = unpacked(page.html)
    assert head["scope"] == "dataset"
    assert head["views"]["cloud"]["page"] == "cloud"
    graph = st.affinity(tree, "vv", scope="dataset", kernel="shifted_cosine", device="cpu")
    eig = st.solve(graph, 3)
    (images,) = head["settings"]
    assert images[0]["limits"] == images[1]["limits"], "colours mean the same in both images"
    segments = st.segment(eig, 3).values
    for index, one in enumerate(images):
        fields = eig["eigenvector"].isel(image=index).transpose("component", "y", "x").values
        read = (2.0 * array(one["fields"], data).astype(float) / 255 - 1) * np.array(one["limits"])[:, None, None]
        assert np.abs(read - fields).max() <= 0.6 * 2 / 255 * max(one["limits"])
        assert (array(one["segments"], data) == segments[index] + 1).all()
        assert one["rows"]["shape"][1] == 2, "a row goes to the patches of both images"


def test_rows_of_many_patches_are_those_of_each_alone() -> None:
    tree = activations(names=("a", "b"))
    graph = st.affinity(tree, "vv", scope="dataset", kernel="shifted_cosine", device="cpu")
    sources = Sources(2, 2)
    joint, layers = all_joint_rows(graph, sources), all_layer_rows(graph, sources)
    grid = joint.shape[-2:]
    for image in range(2):
        for place, cell in enumerate(sources.cells((grid[0], grid[1]))):
            truth, by_layer = st.affinity_row(graph, cell, image)
            np.testing.assert_allclose(joint[image, place], truth.values, atol=1e-5)
            for name, row in by_layer.items():
                np.testing.assert_allclose(layers[name][image, place], row.values[image], atol=1e-5)
    alone, across = (choose_sources([(16, 16)], 8, 2, 4, 2**22, across=one) for one in (False, True))
    assert alone
    assert across
    assert across.rows < alone.rows


def test_another_scope_is_refused() -> None:
    with pytest.raises(SpectralToolkitError, match="scope='all' is not offered"):
        st.freeze(activations(), scope="all")
