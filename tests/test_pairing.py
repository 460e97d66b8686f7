"""Two things are paired by the names of their images only where these are the same images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._analysis import trust
from spectral_toolkit._analysis.regions import hierarchy
from spectral_toolkit._analysis.scores.results import eigenvector_scores
from spectral_toolkit._explorer.session import Session
from spectral_toolkit._io.images import IMAGE_HASH, pixels_sha256
from spectral_toolkit._io.pairing import image_hashes
from spectral_toolkit._views.report import report_html
from spectral_toolkit.errors import SpectralToolkitError, StudyError
from spectral_toolkit.studies.sources import label_maps

NAMES = ["000.png", "001.png"]


def scenes(seed: int) -> xr.Dataset:
    return st.scenes.sample(2, seed=seed)


def files(folder: Path, seed: int) -> list[Path]:
    folder.mkdir(parents=True)
    for name, pixels in zip(NAMES, scenes(seed)["pixels"].values, strict=True):
        Image.fromarray(pixels).save(folder / name)
    return [folder / name for name in NAMES]


def results(images: Any, model: str = "scenes", **options: Any) -> SimpleNamespace:
    """Everything that is made of images, as a user would make it."""
    acts = st.capture(
        model, images, layers=[1], quantities=("query", "key", "value", "token"), progress=False, **options
    )
    graph = st.affinity(acts, "vv", device="cpu")
    joint_graph = st.affinity(acts, "vv", scope="dataset", kernel="shifted_cosine", device="cpu")
    eig = st.solve(graph, 3)
    joint = st.solve(joint_graph, 3)
    labels = st.prepare_labels(acts, np.zeros((2, acts.sizes["y_px"], acts.sizes["x_px"]), int))
    return SimpleNamespace(
        images=images, acts=acts, graph=graph, eig=eig, joint_graph=joint_graph, joint=joint, labels=labels,
        segments=st.segment(eig, 3), cuts=st.segment(eig, 2, method="cuts", graph=graph, threshold=2.0),
        instances=st.instances(eig), mask=trust.outlying_masks(acts),
    )  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return results(files(tmp_path_factory.mktemp("set") / "good", 0))


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Other images of the same names."""
    return results(files(tmp_path_factory.mktemp("set") / "bad", 1))


@pytest.fixture(scope="module")
def larger(good: SimpleNamespace) -> SimpleNamespace:
    """The same images, seen by another model at another size."""
    return results(good.images, "scenes-absolute", size=64)


PAIRINGS: dict[str, Callable[[SimpleNamespace, SimpleNamespace], Any]] = {
    "overlay of files": lambda a, b: st.overlay(b.images, a.eig, component=1),
    "overlay of a tree": lambda a, b: st.overlay(b.acts, a.eig, component=1),
    "overlay of one image": lambda a, b: st.overlay(b.acts["pixels"].isel(image=0), a.eig.isel(image=[0]), component=1),
    "refine": lambda a, b: st.refine(a.segments, b.images),
    "refine masks": lambda a, b: st.refine(a.instances, b.images),
    "align": lambda a, b: st.align(a.eig, b.eig),
    "align one image": lambda a, b: st.align(a.eig.isel(image=1), b.eig.isel(image=1)),
    "subspace_distance": lambda a, b: st.subspace_distance(a.eig, b.eig),
    "subspace_distance of a data set": lambda a, b: st.subspace_distance(a.joint, b.joint),
    "layer_distances": lambda a, b: st.layer_distances(a.graph, b.graph, 2),
    "evaluate": lambda a, b: st.evaluate(a.segments, b.labels.interp_like(a.segments, "nearest").astype(int)),
    "prepare_labels": lambda a, b: st.prepare_labels(a.acts, b.acts["pixels"].isel(rgb=0, drop=True).astype(int)),
    "bundle of pictures": lambda a, b: st.save_bundle(a.folder / f"{a.n()}.zip", a.acts, images=b.images),
    "trust": lambda a, b: trust.trust_statements(a.eig.isel(image=0), b.acts),
    "report": lambda a, b: report_html(b.acts, {"vv": a.eig}),
    "report of pictures": lambda a, b: report_html(a.acts, {"vv": a.eig}, images=b.images),
    "report of two results": lambda a, b: report_html(a.acts, {"vv": a.eig, "other": b.eig}),
    "explorer": lambda a, b: Session(a.acts, pictures=b.images).picture(0),
}
"""What pairs by name, of one model's results with another's."""
ONE_MODEL: dict[str, Callable[[SimpleNamespace, SimpleNamespace], Any]] = {
    "distance by a graph": lambda a, b: st.subspace_distance(a.eig, a.eig, inner=b.graph),
    "warm start": lambda a, b: st.solve(a.graph, 3, start=b.eig),
    "cut_costs": lambda a, b: st.cut_costs(_unsigned(a.eig), b.graph),
    "segment by cuts": lambda a, b: st.segment(_unsigned(a.eig), method="cuts", graph=b.graph),
    "instances by cuts": lambda a, b: st.instances(_unsigned(a.eig), graph=b.graph),
    "bundle of eigenvectors": lambda a, b: st.save_bundle(a.folder / f"{a.n()}.zip", a.acts, eigenvectors=b.eig),
    "mask": lambda a, b: st.affinity(a.acts, "vv", mask=b.mask),
    "scores": lambda a, b: eigenvector_scores(a.joint, b.labels, n_bootstrap=2),
    "pathways": lambda a, b: st.pathways(a.acts, b.labels, kinds="vv", n_eigenvectors=2, n_bootstrap=2, progress=False),
    "hierarchy": lambda a, b: hierarchy(a.cuts.assign_coords({IMAGE_HASH: b.cuts[IMAGE_HASH]})),
}
"""What pairs by name of results of one capture."""


def _unsigned(eig: xr.Dataset) -> xr.Dataset:
    """Without the attributes that tell captures of other files apart: as of activations put together by hand."""
    attrs = {name: value for name, value in eig.attrs.items() if "sha256" not in name}
    return eig.drop_attrs(deep=False).assign_attrs(attrs)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, good: SimpleNamespace) -> None:
    numbers = iter(range(100))
    good.folder, good.n = tmp_path, lambda: next(numbers)


@pytest.mark.parametrize("name", [*PAIRINGS, *ONE_MODEL])
def test_other_images_of_the_same_names_are_refused(name: str, good: SimpleNamespace, bad: SimpleNamespace) -> None:
    pair = {**PAIRINGS, **ONE_MODEL}[name]
    pair(good, good)
    with pytest.raises(SpectralToolkitError, match=r"'000.png'|'001.png'") as raised:
        pair(good, bad)
    if name != "hierarchy":
        assert "other pixels" in str(raised.value)


@pytest.mark.parametrize("name", PAIRINGS)
def test_the_same_images_at_another_size_pair(name: str, good: SimpleNamespace, larger: SimpleNamespace) -> None:
    if name in ("evaluate", "prepare_labels", "report of two results"):
        pytest.skip("these need one grid")
    PAIRINGS[name](good, larger)


@pytest.mark.parametrize("name", [*PAIRINGS, *ONE_MODEL])
def test_results_without_hashes_pair_by_name(name: str, good: SimpleNamespace, bad: SimpleNamespace) -> None:
    """As trees made by hand are, and as the message says for two versions of one image."""
    bare = SimpleNamespace(**vars(bad))
    bare.acts = bad.acts.copy()
    del bare.acts.coords[IMAGE_HASH]
    for one in ("eig", "joint", "segments", "labels", "instances", "cuts"):
        setattr(bare, one, getattr(bad, one).copy())
        del getattr(bare, one).coords[IMAGE_HASH]
    bare.mask = {layer: mask.drop_vars(IMAGE_HASH) for layer, mask in bad.mask.items()}
    bare.graph = st.affinity(bare.acts, "vv", device="cpu")
    mine = good
    if name in ("overlay of files", "refine", "refine masks", "bundle of pictures", "report of pictures", "explorer",
                "overlay of one image", "overlay of a tree", "prepare_labels", "hierarchy", "report"):  # fmt: skip
        mine, bare = bare, bad  # pictures always have pixels, so the hashes of the results are deleted
        mine.folder, mine.n = good.folder, good.n
        if name == "report":
            bare = mine
    {**PAIRINGS, **ONE_MODEL}[name](mine, bare)


def test_the_hash_is_of_the_pixels_as_loaded(good: SimpleNamespace, tmp_path: Path) -> None:
    expected = [pixels_sha256(pixels) for pixels in scenes(0)["pixels"].values]
    assert good.acts[IMAGE_HASH].values.tolist() == expected == scenes(0)[IMAGE_HASH].values.tolist()
    for name in ("eig", "joint", "segments", "instances", "cuts", "labels"):
        assert image_hashes(getattr(good, name), NAMES) == expected, name
        assert image_hashes(getattr(good, name).isel(image=1), NAMES) == ["", expected[1]], name
    assert image_hashes(st.project(good.acts, good.joint, good.joint_graph), NAMES) == expected
    assert image_hashes(st.align(good.eig, good.eig), NAMES) == expected
    assert image_hashes(st.refine(good.segments, good.images), NAMES) == expected
    assert image_hashes(st.subspace_distance(good.eig, good.eig), NAMES) == expected
    assert image_hashes(st.cut_costs(good.eig, good.graph), NAMES) == expected

    again = xr.concat([good.eig.isel(image=[0]), good.eig.sel(image=["001.png"])], "image", data_vars="minimal")
    assert image_hashes(again, NAMES) == expected
    good.eig.to_zarr(tmp_path / "eig.zarr")
    assert image_hashes(xr.open_zarr(tmp_path / "eig.zarr"), NAMES) == expected
    stored = st.capture("scenes", good.images, layers=[1], store=tmp_path / "acts.zarr", progress=False)
    assert image_hashes(stored, NAMES) == expected
    path = st.save_bundle(tmp_path / "a.zip", good.acts, images=good.images, eigenvectors=good.eig, max_side=40)
    bundle = st.load_bundle(path)
    assert image_hashes(bundle.activations, NAMES) == expected == image_hashes(bundle.eigenvectors["vv"], NAMES)
    assert bundle.pictures is not None
    assert [bundle.pictures.hashed(place)[1] for place in (0, 1)] == expected
    st.overlay(bundle.pictures, good.eig, component=1)


def test_what_was_resized_is_known_again_and_what_was_changed_is_not(
    good: SimpleNamespace, larger: SimpleNamespace
) -> None:
    once_more = st.capture("scenes", larger.acts, layers=[1], progress=False)
    assert image_hashes(once_more, NAMES) == image_hashes(good.acts, NAMES)
    darker = good.acts["pixels"] // 2
    assert st.load_images(darker).hashed(0)[1] == pixels_sha256(darker.values[0])
    with pytest.raises(SpectralToolkitError, match="other pixels"):
        st.overlay(darker, good.eig, component=1)


def test_labels_of_other_scenes_are_refused() -> None:
    acts = st.capture("scenes", scenes(0)["pixels"], layers=[0], progress=False)
    st.prepare_labels(acts, scenes(0)["label"])
    with pytest.raises(SpectralToolkitError, match="Image 'scene_0000' of labels has other pixels"):
        st.prepare_labels(acts, scenes(1)["label"])
    with pytest.raises(SpectralToolkitError, match="other pixels"):  # by place, too
        st.prepare_labels(acts, scenes(0)["label"].isel(image=[1, 0]).drop_vars("image"))


def test_files_of_one_name_have_their_folders(tmp_path: Path) -> None:
    paths = [*files(tmp_path / "good", 0), *files(tmp_path / "bad", 1)]
    assert st.load_images(paths).names == ("good/000.png", "good/001.png", "bad/000.png", "bad/001.png")
    assert st.load_images(paths[:3]).names == ("good/000.png", "001.png", "bad/000.png")
    assert st.load_images(str(tmp_path / "*" / "*.png")).names[0] == "bad/000.png"
    pictures = [Image.open(path) for path in paths]
    assert st.load_images(pictures).names == st.load_images(paths).names
    # A slice keeps its names, and two sets that are put together are told apart.
    both = st.load_images([st.load_images(tmp_path / "good"), st.load_images(tmp_path / "bad")])
    assert both.names == st.load_images(paths).names == st.load_images([both[:2], both[2:]]).names
    assert both[2:].names == ("bad/000.png", "bad/001.png")
    # The same file twice has no folder to tell it by.
    assert st.load_images([paths[0], paths[0]]).names == ("000.png", "000.png (2)")


def test_as_many_folders_as_it_takes(tmp_path: Path) -> None:
    for folder in ("x/a", "y/a", "y/b"):
        files(tmp_path / folder, 0)
    found = st.load_images([tmp_path / folder / "000.png" for folder in ("x/a", "y/a", "y/b")])
    assert found.names == ("x/a/000.png", "y/a/000.png", "b/000.png")
    cwd = os.getcwd()
    os.chdir(tmp_path / "x" / "a")
    try:
        assert st.load_images(["000.png", "../../y/b/000.png"]).names == ("a/000.png", "b/000.png")
    finally:
        os.chdir(cwd)
    named = xr.DataArray(
        scenes(0)["pixels"].values[:1], dims=("image", "y_px", "x_px", "rgb"), coords={"image": ["b/0.png"]}
    )
    Image.fromarray(named.values[0]).save(tmp_path / "y" / "b" / "0.png")
    Image.fromarray(named.values[0]).save(tmp_path / "y" / "a" / "0.png")
    found = st.load_images([named, tmp_path / "y" / "b" / "0.png", tmp_path / "y" / "a" / "0.png"])
    assert found.names == ("b/0.png", "y/b/0.png", "a/0.png")


def maps(folder: Path, *values: tuple[str, int]) -> None:
    for name, value in values:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2), value, np.uint8)).save(folder / name)


def read(folder: Path, pictures: str, *labels: str) -> list[int]:
    return [int(one[0, 0]) for one in label_maps(list(labels), st.load_images(str(folder / pictures)), folder)]


def test_label_maps_lie_in_folders_of_the_same_names(tmp_path: Path) -> None:
    maps(tmp_path, ("photos/bad/0.png", 0), ("photos/good/0.png", 0), ("photos/good/1.png", 0))
    maps(tmp_path, ("labels/good/0.png", 5), ("labels/bad/0.png", 6), ("labels/good/1.png", 7))
    assert read(tmp_path, "photos/*/*.png", "labels/*/*.png") == [6, 5, 7]
    assert read(tmp_path, "photos/*/*.png", "labels/*/*.png", "labels/good/*.png") == [6, 5, 7]
    maps(tmp_path, ("a/photos/0.png", 0), ("b/photos/0.png", 0), ("a/masks/0.png", 1), ("b/masks/0.png", 2))
    assert read(tmp_path, "*/photos/0.png", "*/masks/*.png") == [1, 2]
    # Where no folder is common to both, stems decide, if they are unique.
    maps(tmp_path, ("flat/1.png", 8), ("flat/0.png", 9))
    assert read(tmp_path, "photos/good/*.png", "flat/*.png") == [9, 8]


def test_label_maps_that_could_belong_to_two_pictures_are_refused(tmp_path: Path) -> None:
    maps(tmp_path, ("photos/bad/0.png", 0), ("photos/good/0.png", 0), ("flat/0.png", 9))
    with pytest.raises(StudyError, match=re.escape("'0.png' would belong to two images, 'bad/0.png' and 'good/0.png'")):
        read(tmp_path, "photos/*/*.png", "flat/*.png")
    maps(tmp_path, ("labels/good/0.png", 5), ("labels/worse/0.png", 6))
    with pytest.raises(StudyError, match=re.escape("'bad/0.png' has 0 label maps among the 2 files")):
        read(tmp_path, "photos/*/*.png", "labels/*/*.png")
    with pytest.raises(
        StudyError, match=re.escape("has 2 label maps among the 2 files of 'labels/*/*.png' ('good/0.png',")
    ):
        read(tmp_path, "photos/good/*.png", "labels/*/*.png")


def test_label_maps_with_a_palette_are_read_as_indices(tmp_path: Path) -> None:
    indexed = Image.fromarray(np.array([[0, 1], [15, 255]], np.uint8), "P")
    indexed.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    maps(tmp_path, ("photos/0.png", 0))
    indexed.save(tmp_path / "voc.png")
    indexed.save(tmp_path / "0.png")
    (found,) = label_maps(["0.png"], ["photos/0.png"], tmp_path)
    assert found.tolist() == [[0, 1], [15, 255]]
