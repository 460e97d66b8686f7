"""No score hangs on rounding: activations disturbed as another processor would leave them give the same scores."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import spectral_toolkit as st
from spectral_toolkit._analysis.scores import paths
from spectral_toolkit._analysis.scores.segments import OVERCLUSTERED
from spectral_toolkit._models import bundled_models, loading
from spectral_toolkit.scores import SCORES
from spectral_toolkit.studies import computing, read_study, running
from spectral_toolkit.studies.cache import Cache
from spectral_toolkit.studies.plan import plan_study

ROUNDING = 2e-7
"""Relative, about two units in the last place of single precision."""
SEGMENTED = "matched_miou", "overclustered_miou", "ari"
N_SCENES, N_DISTURBED, MOST = 20, 10, 0.01


def disturbed(activations: xr.DataTree, seed: int) -> xr.DataTree:
    """The same tree with every query, key and value off by rounding."""
    rng = np.random.default_rng(seed)
    tree = activations.copy()
    for layer in tree.children.values():
        for name in ("query", "key", "value"):
            quantity = layer.dataset[name]
            noisy = quantity.values.astype(np.float64) * (1 + ROUNDING * rng.standard_normal(quantity.shape))
            layer[name] = quantity.copy(data=noisy.astype(quantity.dtype))
    return tree


def scores_of_segments(eig: xr.Dataset, labels: xr.DataArray) -> np.ndarray:
    """Scores of as many segments as there are categories, and of many more."""
    numbers = len(np.unique(labels.values[labels.values >= 0])), OVERCLUSTERED
    scores = [st.evaluate(st.segment(eig, number), labels) for number in numbers]
    return np.array([[float(score[name]) for name in SEGMENTED] for score in scores])


def scores_of_study(
    name: str, tree: xr.DataTree, solved: dict[str, xr.Dataset], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> np.ndarray:
    """Every score that a study of these scenes writes, by kind; what it would capture and solve is given."""
    monkeypatch.setattr(running, "_captured", lambda *_: tree)
    monkeypatch.setattr(computing, "affinity", lambda activations, kind, **_: kind)
    monkeypatch.setattr(computing, "solve", lambda kind, *_, **__: solved[kind].copy())
    monkeypatch.setattr(computing, "eigenvector_scores", partial(st.eigenvector_scores, n_bootstrap=1))
    places = [int(node.attrs["depth"]) for node in tree.children.values()]
    config = {
        "models": name,
        "pictures": {"made": {"scenes": {"n": N_SCENES, "seed": 0}}},
        "affinities": list(solved),
        "layers": {"last": places},
        "scope": "dataset",
        "n_eigenvectors": 10,
        "device": "cpu",
    }
    numbers, _ = running.compute(plan_study(read_study(config)), Cache(folder), progress=False)
    values = [one["scores"]["values"] for one in numbers]
    return np.array([[value["value"] for value in one.values()] for one in values])


def all_scores(
    activations: xr.DataTree, scenes: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> tuple[xr.Dataset, dict[str, xr.Dataset]]:
    """The scores of pathways, and ten eigenvectors for the others; neighbours, which take longest, are found once."""
    graphs: dict[str, Any] = {}

    def kept(tree: xr.DataTree, kind: str, **options: Any) -> Any:
        graphs[kind] = st.affinity(tree, kind, **options)
        return graphs[kind]

    monkeypatch.setattr(paths, "affinity", kept)
    settings: dict[str, Any] = {"controls": False, "n_bootstrap": 1, "progress": False, "device": "cpu"}
    run = st.pathways(activations, scenes["label"], **settings)
    assert sorted(graphs) == sorted(run.kind.values)
    return run, {kind: st.solve(graph, 10) for kind, graph in graphs.items()}


def cut_within_a_group(angle: float) -> xr.Dataset:
    """Three eigenvectors of a dataset; the third is any mixture of two whose eigenvalues cannot be told apart."""
    rng = np.random.default_rng(0)
    blocks = np.repeat(np.repeat(rng.normal(size=(4, 2, 2, 4)), 3, axis=1), 3, axis=2)
    first = np.linalg.qr((blocks + 0.1 * rng.normal(size=(4, 6, 6, 4))).reshape(-1, 4))[0].reshape(4, 6, 6, 4)
    third = np.cos(angle) * first[..., 2] + np.sin(angle) * first[..., 3]
    vectors = np.concatenate([first[..., :2], third[..., None]], axis=-1)
    return xr.Dataset(
        {
            "eigenvector": (("image", "y", "x", "component"), vectors),
            "eigenvalue": ("component", [0.1, 0.2, 0.3]),
            "eigengap": ("component", [0.1, 0.1, 1e-6]),
        },
        coords={"image": list("abcd"), "component": [1, 2, 3]},
        attrs={"scope": "dataset", "kernel": "knn"},
    )


def test_what_is_scored_ends_at_an_eigengap() -> None:
    labels = np.random.default_rng(1).integers(0, 3, size=(4, 6, 6))
    one, other = (cut_within_a_group(angle) for angle in (0.0, 1.3))
    scores = [st.eigenvector_scores(eig, labels, n_bootstrap=5) for eig in (one, other)]
    xr.testing.assert_identical(*scores)
    assert "Of 3 eigenvectors the first 2 are scored" in scores[0].attrs["notes"]
    apart = st.eigenvector_scores(one.isel(component=slice(0, 2)), labels, n_bootstrap=5)
    xr.testing.assert_equal(apart, scores[0])
    assert "are scored" not in apart.attrs["notes"]
    segments = [st.segment(eig, 3) for eig in (one, other)]
    xr.testing.assert_identical(*segments)
    assert "The last eigenvectors have no say" in segments[0].attrs["notes"]
    chosen = [st.segment(eig, 3, components=3) for eig in (one, other)]
    assert not chosen[0].equals(chosen[1]), "who asks for three gets three"


@pytest.mark.slow(seconds=140)
@pytest.mark.parametrize("name", bundled_models())
def test_rounding_moves_no_score(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (loading.WEIGHTS / name / "model_index.json").exists():
        pytest.importorskip("diffusers")
    scenes = st.scenes.sample(N_SCENES, seed=0)
    model = st.load_model(name, device="cpu")
    activations = st.capture(model, scenes["pixels"], layers=model.layers[-2:], progress=False)
    labels = st.prepare_labels(activations, scenes["label"])
    trees = [activations, *(disturbed(activations, seed) for seed in range(1, N_DISTURBED + 1))]
    runs, solved = zip(*(all_scores(tree, scenes, monkeypatch) for tree in trees), strict=True)
    for kind in ("qk", "vv"):
        found = np.stack([scores_of_segments(one[kind], labels) for one in solved])
        assert np.abs(found[1:] - found[0]).max() <= MOST, f"{SEGMENTED} of segments by {kind}"
    found = np.stack(
        [
            scores_of_study(name, tree, one, tmp_path / str(number), monkeypatch)
            for number, (tree, one) in enumerate(zip(trees, solved, strict=True))
        ]
    )
    assert np.abs(found[1:] - found[0]).max() <= MOST, "a study"
    for score in SCORES:
        found = np.stack([run[score].values for run in runs])
        moved = np.abs(found[1:] - found[0]).max(axis=0)
        assert moved.max() <= MOST, f"{score} of {list(runs[0].kind.values)} moves by {moved.max(axis=1)}"
