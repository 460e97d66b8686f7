"""No score hangs on rounding: activations disturbed as another processor would leave them give the same scores."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import spectral_toolkit as st
from spectral_toolkit._analysis.scores.segments import OVERCLUSTERED
from spectral_toolkit._models import bundled_models, loading
from spectral_toolkit.scores import SCORES
from spectral_toolkit.studies import computing, read_study, running
from spectral_toolkit.studies.cache import Cache
from spectral_toolkit.studies.plan import StudyPlan, plan_study

ROUNDING = 2e-7
"""Relative, about two units in the last place of single precision."""
SEGMENTED = "matched_miou", "overclustered_miou", "ari"
KINDS = ("qk", "vv")
N_SCENES, N_DISTURBED, MOST = 20, 4, 0.01
MOST_UNSURE = 0.03
"""Where a partition says of itself that others would do about as well: one of these may then be found."""


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


def results_of(tree: xr.DataTree) -> tuple[dict[str, xr.Dataset], dict[str, xr.Dataset]]:
    """By kind: eigenvectors of all layers jointly and of the last alone, as pathways solves them."""
    graphs = {kind: st.affinity(tree, kind, scope="dataset", device="cpu") for kind in KINDS}
    alone = {kind: graph.reweight(dict.fromkeys(graph.layers[:-1], 0.0)) for kind, graph in graphs.items()}
    joint, last = ({kind: st.solve(one, 15) for kind, one in some.items()} for some in (graphs, alone))
    return joint, last


def scores_of_segments(eig: xr.Dataset, labels: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of as many segments as there are categories, and of many more; and how far each may move."""
    eig = eig.isel(component=slice(0, 10))
    numbers = len(np.unique(labels.values[labels.values >= 0])), OVERCLUSTERED
    partitions = [st.segment(eig, number) for number in numbers]
    scores = [st.evaluate(one, labels) for one in partitions]
    most = [
        MOST_UNSURE if "Other segments would do about as well" in one.attrs["notes"] else MOST for one in partitions
    ]
    return np.array([[float(score[name]) for name in SEGMENTED] for score in scores]), np.array(most)[:, None]


def scores_of_layer(eig: xr.Dataset, labels: xr.DataArray) -> np.ndarray:
    """Every score that pathways gives a layer."""
    scores = st.eigenvector_scores(eig, labels, n_bootstrap=1)
    return np.array([float(scores[name]) for name in SCORES])


def plan_of(name: str, depths: list[int]) -> StudyPlan:
    """A study of the scenes by these layers jointly."""
    config = {
        "models": name,
        "pictures": {"made": {"scenes": {"n": N_SCENES, "seed": 0}}},
        "affinities": list(KINDS),
        "layers": {"last": depths},
        "scope": "dataset",
        "n_eigenvectors": 15,
        "controls": False,
        "device": "cpu",
    }
    return plan_study(read_study(config))


def scores_of_study(
    plan: StudyPlan, tree: xr.DataTree, solved: dict[str, xr.Dataset], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> np.ndarray:
    """Every score that a study writes, by kind, as pathways gives them; what it would capture and solve is given."""
    monkeypatch.setattr(running, "_captured", lambda *_: tree)
    monkeypatch.setattr(computing, "affinity", lambda activations, kind, **_: kind)
    monkeypatch.setattr(computing, "solve", lambda kind, *_, **__: solved[kind].copy())
    monkeypatch.setattr(computing, "eigenvector_scores", partial(st.eigenvector_scores, n_bootstrap=1))
    numbers, _ = running.compute(plan, Cache(folder), progress=False)
    values = [one["scores"]["values"] for one in numbers]
    assert [list(one) for one in values] == [list(SCORES)] * len(solved)
    return np.array([[value["value"] for value in one.values()] for one in values])


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
    assert "The last eigenvectors are left out" in segments[0].attrs["notes"]
    chosen = [st.segment(eig, 3, components=3) for eig in (one, other)]
    assert not chosen[0].equals(chosen[1]), "who asks for three gets three"


@pytest.mark.slow(seconds=35)
@pytest.mark.parametrize("name", bundled_models())
def test_rounding_moves_no_score(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (loading.WEIGHTS / name / "model_index.json").exists():
        pytest.importorskip("diffusers")
    scenes = st.scenes.sample(N_SCENES, seed=0)
    model = st.load_model(name, device="cpu")
    activations = st.capture(model, scenes["pixels"], layers=model.layers[-2:], progress=False)
    labels = st.prepare_labels(activations, scenes["label"])
    plan = plan_of(name, [int(node.attrs["depth"]) for node in activations.children.values()])
    found: dict[str, list[np.ndarray]] = {"segments": [], "a study, all layers": [], "the last layer": []}
    most: dict[str, np.ndarray] = {}
    for seed in range(N_DISTURBED + 1):
        tree = disturbed(activations, seed) if seed else activations
        joint, last = results_of(tree)
        scores, bounds = zip(*(scores_of_segments(joint[kind], labels) for kind in KINDS), strict=True)
        found["segments"].append(np.stack(scores))
        most["segments"] = most.get("segments", np.stack(bounds))
        found["a study, all layers"].append(scores_of_study(plan, tree, joint, tmp_path / str(seed), monkeypatch))
        found["the last layer"].append(np.stack([scores_of_layer(last[kind], labels) for kind in KINDS]))
    for what, runs in found.items():
        moved = np.abs(np.stack(runs[1:]) - runs[0]).max(axis=0)
        assert (moved <= most.get(what, MOST)).all(), f"{what}, {KINDS} moved by {moved.round(4)}"
