"""Segments and instances: degenerate input, chance left out, scores against the scenes' ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from eigen_fixtures import eigenvectors
from hypothesis import given, settings
from hypothesis import strategies as some

import spectral_toolkit as st
from spectral_toolkit._analysis.regions import METHODS, kmeans
from spectral_toolkit.errors import RegionsError


def eig_of(fields: np.ndarray, eigenvalue: float = 0.2, **settings_: Any) -> xr.Dataset:
    """Eigenvectors (image, y, x, component) given by hand, in the frame of the fixtures."""
    n_images, *grid, n_components = fields.shape
    eig = eigenvectors(n_images=n_images, grid=(grid[0], grid[1]), n_components=n_components, **settings_)
    return eig.assign(
        eigenvector=(("image", "y", "x", "component"), fields), eigenvalue=eig.eigenvalue * 0 + eigenvalue
    )


def blocks(n_images: int = 2) -> tuple[xr.Dataset, np.ndarray]:
    """Three clear segments: the left half, and the right one's top and bottom."""
    truth = np.zeros((4, 6), dtype=int)
    truth[:, 3:], truth[2:, 3:] = 1, 2
    noise = np.random.default_rng(0).normal(size=(n_images, 4, 6, 2)) * 1e-3
    return eig_of(np.eye(3)[truth][..., :2] + noise), truth


@pytest.fixture(scope="module")
def scenes() -> tuple[xr.Dataset, xr.Dataset, xr.DataTree]:
    drawn = st.scenes.sample(6, seed=31)
    acts = st.capture(st.load_model("scenes", device="cpu"), drawn.pixels, quantities=("value",), progress=False)
    return drawn, st.solve(st.affinity(acts, "vv", device="cpu")), acts


def best_iou(masks: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the true instances of the IoU with the mask that fits best."""
    best = []
    for number in np.unique(truth):
        thing = truth == number
        best.append(max(((mask & thing).sum() / (mask | thing).sum() for mask in masks), default=0.0))
    return float(np.mean(best))


def quarters(n: int) -> np.ndarray:
    """Label map of a 12 x 12 grid cut into n x n equal squares."""
    return np.arange(12)[:, None] * n // 12 * n + np.arange(12) * n // 12


def test_clear_segments_are_found_and_numbered_by_size() -> None:
    eig, truth = blocks()
    found = st.segment(eig)
    assert found.dims == ("image", "y", "x")
    assert found.dtype == np.int64
    assert (found.values == truth).all()
    assert found.n_segments.values.tolist() == [3, 3]
    assert (found.silhouette > 0.9).all()
    np.testing.assert_allclose(found.agreement, 1)
    assert found.attrs["affinity"] == "qk"
    assert found.attrs["activations_model"] == "tiny-vit"
    for name in ("y", "x", "image", "box_top"):
        assert found[name].variable.identical(eig[name].variable), name


def test_two_runs_give_the_same_and_the_seed_is_recorded() -> None:
    rng = np.random.default_rng(1)
    eig = eig_of(rng.normal(size=(2, 5, 5, 3)))
    assert st.segment(eig, seed=3).identical(st.segment(eig, seed=3))
    assert st.instances(eig, seed=3).identical(st.instances(eig, seed=3))
    assert st.segment(eig, seed=3).attrs["seed"] == 3


def test_a_sample_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "SAMPLE", 20)
    eig, truth = blocks()
    found = st.segment(eig)
    assert (found.values == truth).all()
    assert "over a seeded sample of 20 of 24 patches" in found.attrs["notes"]


@pytest.mark.parametrize("scope", ["image", "dataset"])
def test_a_number_that_may_have_been_too_small_is_told(scope: str) -> None:
    truth = np.arange(60).reshape(1, 6, 10) % 12
    eig = eig_of(np.eye(12)[truth], scope=scope)
    found = st.segment(eig)
    assert found.n_segments.values.tolist() == [10]
    where = "'all images as one'" if scope == "dataset" else repr(str(eig.image.values[0]))
    told = f"More than 10 segments are only tried if asked for, and 10 were chosen in {where}."
    unsure = found.attrs["notes"].replace(told, "").strip()
    assert told in found.attrs["notes"]
    assert unsure.startswith("Other segments would do about as well"), "10 of 12 kinds"
    assert st.segment(eig, 10).attrs["notes"] == unsure, "asked for"
    assert not st.segment(blocks()[0]).attrs["notes"], "far fewer"


def test_numbers_mean_the_same_in_all_pictures_solved_as_one() -> None:
    truth = np.zeros((2, 4, 6), dtype=int)
    truth[0, :, 3:], truth[1, :, 1:], truth[1, :, 4:] = 1, 1, 2
    eig = eig_of(np.eye(3)[truth][..., :2], scope="dataset")
    found = st.segment(eig)
    both = {(int(a), int(b)) for a, b in zip(truth.ravel(), found.values.ravel(), strict=True)}
    assert len(both) == 3, "one number for one kind of cell, in both pictures"
    assert found.n_segments.values.tolist() == [3, 3]
    alone = st.segment(eig.assign_attrs(scope="image").assign(eigenvalue=eig.eigenvalue.expand_dims(image=2)))
    assert alone.n_segments.values.tolist() == [2, 3]


def test_eigengap_chooses_one_more_than_components_before_the_gap() -> None:
    rng = np.random.default_rng(0)
    eig = eig_of(rng.normal(size=(2, 6, 6, 4)))
    gaps = np.array([[0.1, 0.4, 0.2, 0.1], [0.1, 0.2, 0.2, 0.5]])
    eig["eigengap"] = (("image", "component"), gaps)
    assert st.segment(eig, "eigengap").n_segments.values.tolist() == [3, 5]
    without = eig.drop_vars("eigengap").assign(eigenvalue=(("image", "component"), [[0.1, 0.2, 0.5, 0.6]] * 2))
    assert st.segment(without, "eigengap").n_segments.values.tolist() == [3, 3]


def test_weights_are_those_of_the_affinity() -> None:
    """A component of eigenvalue 1 or more has no say, unless asked to."""
    fields = np.zeros((1, 4, 4, 2))
    fields[0, :, 2:, 0], fields[0, 2:, :, 1] = 1, 5
    eig = eig_of(fields).assign(eigenvalue=(("image", "component"), [[0.3, 1.1]]))
    assert (st.segment(eig, 2).values[0] == st.segment(eig, 2).values[0, 0]).all(), "columns only"
    plain = st.segment(eig, 2, weighted=False).values[0]
    assert (plain == plain[:, :1]).all(), "rows, which differ by more"
    st.segment(eig, 2, components=np.int64(1))
    assert (st.segment(eig, 2, weighted=False, components=1).values == st.segment(eig, 2).values).all()


def test_isolated_cells_are_left_out_filled_and_reported() -> None:
    eig, truth = blocks(1)
    eig["isolated"][0, 0, 5] = True
    eig["eigenvector"][0, 0, 5] = 1e6  # whatever stands there must not matter
    found = st.segment(eig)
    assert (found.values[0] == truth).all()
    assert found.isolated.values.sum() == 1
    assert "Patches with hardly any affinity: 1" in found.attrs["notes"]
    masks = st.instances(eig)
    assert any((mask == (truth == 1)).all() for mask in masks.values[0])


def test_a_picture_without_any_affinity_has_no_segment() -> None:
    eig = eigenvectors(isolated=tuple((1, y, x) for y in range(4) for x in range(8)))
    for scope in ("image", "dataset"):
        found = st.segment(eig.assign_attrs(scope=scope))
        assert (found.values[1] == -1).all()
        assert (found.values[0] >= 0).all()
    assert found.n_segments.values[0] > 1
    assert st.segment(eig).n_segments.values[1] == 0
    masks = st.instances(eig)
    assert masks.n_instances.values[1] == 0
    assert not masks.values[1].any()
    assert np.isnan(masks.score.values[1]).all()


@settings(max_examples=40)
@given(
    some.integers(1, 2),
    some.integers(1, 4),
    some.integers(1, 4),
    some.integers(1, 3),
    some.sampled_from(["random", "constant", "two values", "nearly equal"]),
    some.sampled_from(["auto", "eigengap", 1, 2, 5]),
    some.sampled_from(["image", "dataset"]),
    some.integers(0, 2**32 - 1),
)
def test_any_shape_and_any_values_have_an_answer(
    n_images: int, height: int, width: int, n_components: int, values: str, n: int | str, scope: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (n_images, height, width, n_components)
    fields = {
        "random": rng.normal(size=shape),
        "constant": np.full(shape, 0.3),
        "two values": rng.integers(0, 2, shape).astype(float),
        "nearly equal": 1 + rng.normal(size=shape) * 1e-15,
    }[values]
    eig = eig_of(fields, scope=scope)
    isolated = rng.random(shape[:3]) < 0.3
    eig["isolated"] = (("image", "y", "x"), isolated)
    cells = (~isolated).sum(axis=(1, 2))
    fewest = int(cells.sum() if scope == "dataset" else cells.min())
    if isinstance(n, int) and 0 < fewest < n:
        with pytest.raises(RegionsError, match=f"n_segments={n} is too many"):
            st.segment(eig, n)
        return
    found = st.segment(eig, n)
    assert found.shape == shape[:3]
    for image in range(n_images):
        labels = np.unique(found.values[image])
        assert (labels == -1).all() == (not cells[image])
        if scope == "image" and cells[image]:
            assert labels.tolist() == list(range(int(found.n_segments[image])))
            sizes = np.bincount(found.values[image].ravel())
            assert (np.diff(sizes) <= 0).all(), "numbered by size"
            if isinstance(n, int):
                assert len(labels) <= n
    masks = st.instances(eig)
    assert masks.shape[0] == n_images
    assert masks.shape[2:] == shape[1:3]
    assert (masks.any(("y", "x")).sum("instance") == masks.n_instances).all()
    assert (masks.score.notnull().sum("instance") == masks.n_instances).all()


def test_instances_are_ordered_distinct_and_few_if_asked() -> None:
    eig, truth = blocks()
    eig["eigenvector"][1] = 0.3  # nothing to find in the second picture
    found = st.instances(eig)
    assert found.dtype == bool
    assert found.dims == ("image", "instance", "y", "x")
    assert found.n_instances.values.tolist() == [found.sizes["instance"], 0]
    scores = found.score.values[0]
    assert (np.diff(scores) <= 0).all()
    assert (scores > 0).all()
    for number in range(3):
        assert any((mask == (truth == number)).all() for mask in found.values[0])
    masks = found.values[0].reshape(found.sizes["instance"], -1)
    for a in range(len(masks)):
        for b in range(a):
            assert (masks[a] & masks[b]).sum() / (masks[a] | masks[b]).sum() <= 0.7
    assert st.instances(eig, n_instances=2).identical(found[:, :2].assign_coords(n_instances=("image", [2, 0])))
    assert st.instances(eig, min_score=1.0).sizes["instance"] == 0


def test_one_image_chosen_beforehand_gives_the_same() -> None:
    eig, _ = blocks()
    assert (st.segment(eig.isel(image=1)).values[0] == st.segment(eig).values[1]).all()
    assert st.segment(eig.isel(image=1)).image.values.tolist() == ["picture-1"]
    assert st.segment(eig.isel(image=1)).box_right.values.tolist() == [80]
    assert (st.instances(eig.isel(image=1)).values[0] == st.instances(eig).values[1]).all()
    assert (st.segment(eig.transpose("component", "x", "image", "y", ...)).values == st.segment(eig).values).all()


def test_results_survive_a_store(tmp_path: Path) -> None:
    eig, _ = blocks()
    for name, found in (("segment", st.segment(eig)), ("instance_mask", st.instances(eig))):
        found.to_dataset().to_zarr(tmp_path / name)
        assert xr.open_zarr(tmp_path / name)[name].load().identical(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_segments": 0}, "n_segments=0 is out of range: expected a whole number of at least 1"),
        ({"n_segments": 2.5}, "n_segments=2.5 is out of range"),
        ({"n_segments": "many"}, "n_segments='many' is not offered: use one of .* with method='kmeans'"),
        ({"n_segments": 25}, "n_segments=25 is too many: image 'picture-0' has 24 patches"),
        ({"method": "guess"}, "method='guess' is not offered: use one of .kmeans., .cuts."),
        ({"graph": 3}, "graph is an int: give what st.affinity returned"),
        ({"colour": 1}, "colour=1 does not apply to method='kmeans', which takes components, weighted"),
        ({"components": 3}, "components=3 is out of range: expected a whole number from 1 to 2, as many as there are"),
        ({"components": 0}, "components=0 is out of range"),
        ({"weighted": 1}, "weighted=1 is not understood"),
        ({"seed": -1}, "seed=-1 is out of range"),
    ],
)
def test_bad_arguments_are_told_in_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RegionsError, match=message):
        st.segment(blocks()[0], **change)


def test_bad_eigenvectors_are_told_in_one_sentence() -> None:
    eig, _ = blocks()
    with pytest.raises(RegionsError, match="A DataArray was given as eigenvectors"):
        st.segment(eig["eigenvector"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(RegionsError, match="expected image, y, x and component"):
        st.segment(eig.rename(y="row"))
    with pytest.raises(RegionsError, match="come without 'eigenvalue'"):
        st.segment(eig.drop_vars("eigenvalue"))
    with pytest.raises(RegionsError, match="needs 'eigengap' or 'eigenvalue'"):
        st.segment(eig.drop_vars(["eigenvalue", "eigengap"]), "eigengap", weighted=False)
    eig["eigenvector"][1, 0, 0, 0] = np.nan
    with pytest.raises(RegionsError, match="of image 'picture-1' hold NaN"):
        st.segment(eig)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_parts": 1}, "n_parts=1 is out of range"),
        ({"overlap": 2}, "overlap=2 is out of range: expected a number from 0 to 1"),
        ({"min_score": "low"}, "min_score='low' is out of range"),
        ({"n_instances": 0}, "n_instances=0 is out of range"),
        ({"graph": 3}, "graph is an int"),
        ({"colour": 1}, "colour=1 does not apply to instances"),
    ],
)
def test_bad_arguments_of_instances_are_told(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RegionsError, match=message):
        st.instances(blocks()[0], **change)


def test_every_choice_of_every_method_works() -> None:
    """The table says what is offered; what is offered works."""
    eig, _ = blocks()
    for name, line in METHODS.items():
        if line.needs_graph:
            continue
        for choice in (*line.choices, 2):
            assert st.segment(eig, choice, method=name).n_segments.values.min() >= 2


def test_segments_of_scenes_beat_an_equal_grid(scenes: tuple[xr.Dataset, xr.Dataset, xr.DataTree]) -> None:
    """Baseline: every picture cut into four equal squares; one segment a picture is worse still."""
    drawn, eig, acts = scenes
    labels = st.prepare_labels(acts, drawn.label)
    found = st.segment(eig)

    def mean(segments: np.ndarray) -> float:
        each = [st.evaluate(segments[i : i + 1], labels[i : i + 1]).matched_miou for i in range(len(labels))]
        return float(np.mean(each))

    baseline = mean(np.stack([quarters(2)] * len(labels)))
    assert mean(found.values) > 1.5 * baseline
    assert baseline > mean(np.zeros(labels.shape, dtype=int))


def test_instances_of_scenes_beat_as_many_windows(scenes: tuple[xr.Dataset, xr.Dataset, xr.DataTree]) -> None:
    """Baseline: the windows of equal grids of 2 x 2 to 4 x 4, 29 of them, more than the instances found on average."""
    drawn, eig, acts = scenes
    truth = st.prepare_labels(acts, drawn.instance)
    found = st.instances(eig)
    assert found.n_instances.mean() < 29
    windows = np.stack([quarters(n) == number for n in (2, 3, 4) for number in range(n * n)])
    ours = np.mean([best_iou(masks, one) for masks, one in zip(found.values, truth.values, strict=True)])
    theirs = np.mean([best_iou(windows, one) for one in truth.values])
    assert ours > 1.3 * theirs


def test_refined_segments_of_scenes_fit_better(scenes: tuple[xr.Dataset, xr.Dataset, xr.DataTree]) -> None:
    """Baseline: cells enlarged to squares of pixels."""
    drawn, eig, _ = scenes
    segments = st.segment(eig.isel(image=slice(0, 3)))
    truth = drawn.label.values[:3].astype(int)

    def mean(found: xr.DataArray) -> float:
        each = [st.evaluate(found.values[i : i + 1], truth[i : i + 1]).matched_miou for i in range(3)]
        return float(np.mean(each))

    pictures = drawn.pixels[:3]
    assert mean(st.refine(segments, pictures)) > mean(st.refine(segments, pictures, margin=0)) + 0.03


def test_cuts_of_scenes_beat_an_equal_grid(scenes: tuple[xr.Dataset, xr.Dataset, xr.DataTree]) -> None:
    drawn, eig, acts = scenes
    labels = st.prepare_labels(acts, drawn.label)
    found = st.segment(eig, method="cuts", graph=st.affinity(acts, "vv", device="cpu"))
    each = [
        (st.evaluate(a[None], b[None]), st.evaluate(quarters(2)[None], b[None]))
        for a, b in zip(found.values, labels.values, strict=True)
    ]
    ours, theirs = (float(np.mean([pair[i].matched_miou for pair in each])) for i in (0, 1))
    assert ours > 1.5 * theirs


def test_segments_are_numbered_as_those_that_they_overlap() -> None:
    rng = np.random.default_rng(0)
    like = xr.DataArray(rng.integers(-1, 4, (3, 6, 8)), dims=("image", "y", "x"), attrs={"scope": "dataset"})
    shuffled = like.copy(data=np.where(like < 0, -1, np.array([2, 3, 1, 0])[like]))
    xr.testing.assert_equal(st.match_segments(shuffled, like), like)
    more = like.copy(data=np.where(rng.random(like.shape) < 0.1, 7, shuffled))
    found = st.match_segments(more, like)
    kept = more < 7
    assert (found.values[kept] == like.values[kept]).all()
    assert (found.values[~kept] >= 4).all(), "one that the other does not have"
    apart = [one.assign_attrs(scope="image") for one in (shuffled, like)]
    swapped = apart[0].copy(data=np.concatenate([apart[0][:1], like[1:]]))
    xr.testing.assert_equal(st.match_segments(swapped, apart[1]), apart[1])


def test_segments_on_other_grids_and_of_other_images() -> None:
    coarse = xr.DataArray([[[0, 1]]], {"image": ["a"]}, ("image", "y", "x"))
    fine = xr.DataArray([[[1, 1, 0, 0], [1, 1, 2, 0]]], {"image": ["a"]}, ("image", "y", "x"))
    assert st.match_segments(fine, coarse).values.tolist() == [[[0, 0, 1, 1], [0, 0, 2, 1]]]
    for wrong, words in (
        (coarse.assign_coords(image=["b"]), "other images"),
        (coarse.isel(image=0), "like is no label map"),
        (coarse.astype(float), "like holds float64"),
    ):
        with pytest.raises(RegionsError, match=words):
            st.match_segments(fine, wrong)
