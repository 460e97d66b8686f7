"""What marks pixels without a label is no category, where one says so; and a reminder where one does not."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit._analysis.scores.results import eigenvector_scores
from spectral_toolkit.errors import SpectralToolkitError
from spectral_toolkit.studies import run_study
from spectral_toolkit.studies.reading import read_study

# As VOC: three categories, and a border of 255 round the things.
PLAIN = np.repeat(np.array([[[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2], [-1, -1, 2, -1]]]), 3, axis=0)
VOC = np.where(PLAIN == -1, 255, PLAIN).astype(np.uint8)
SEGMENTS = np.where(PLAIN == -1, 1, PLAIN)
REMINDER = "The label 255 is far above all others, of which the largest is 2, .* give ignore=255"


@pytest.mark.parametrize("ignore", [255, (255,), [255, 7], {255}, np.array([255]), np.uint8(255), range(200, 256)])
def test_an_ignored_label_counts_as_minus_one(ignore: Any) -> None:
    tree = make_tree([(4, 4)], images=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = st.prepare_labels(tree, VOC, ignore=ignore)
        scores = st.evaluate(SEGMENTS, VOC, ignore=ignore)
    np.testing.assert_array_equal(found.values, PLAIN)
    assert scores.identical(st.evaluate(SEGMENTS, PLAIN))
    assert float(scores.matched_miou) == 1.0
    with pytest.warns(UserWarning, match=REMINDER):
        assert float(st.evaluate(SEGMENTS, VOC).matched_miou) < 0.8


def test_several_labels_and_negative_ones() -> None:
    tree = make_tree([(4, 4)], images=3)
    np.testing.assert_array_equal(st.prepare_labels(tree, np.where(PLAIN == 0, -100, PLAIN), ignore=(-100, 1)),
                                  np.where(PLAIN == 2, 2, -1))  # fmt: skip
    with pytest.raises(SpectralToolkitError, match="holds -100, .* give ignore=-100"):
        st.prepare_labels(tree, np.where(PLAIN == 0, -100, PLAIN))
    for ignore in ("255", 2.0, True, [None], "ab"):
        with pytest.raises(SpectralToolkitError, match="ignore=.* give the label that means 'no label'"):
            st.evaluate(SEGMENTS, PLAIN, ignore=ignore)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SpectralToolkitError, match="labels are ignored"):
        st.evaluate(SEGMENTS, PLAIN, ignore=(0, 1, 2))


def test_pathways_and_scores_of_a_result() -> None:
    tree = make_tree([(4, 4)], images=3)
    settings: dict[str, Any] = {
        "kinds": "vv", "n_eigenvectors": 2, "controls": False, "n_bootstrap": 3, "progress": False, "device": "cpu",
    }  # fmt: skip
    expected = st.pathways(tree, PLAIN, **settings)
    assert st.pathways(tree, VOC, ignore=255, **settings).equals(expected)
    with pytest.warns(UserWarning, match=REMINDER) as told:
        assert not st.pathways(tree, VOC, **settings).equals(expected)
    assert len(told) == 1
    eig = st.solve(st.affinity(tree, "vv", scope="dataset", device="cpu"), 2)
    assert eigenvector_scores(eig, VOC, ignore=255, n_bootstrap=3).equals(eigenvector_scores(eig, PLAIN, n_bootstrap=3))


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        ((0, 20, 255), True),
        ((0, 181, 255), True),  # COCO-Stuff
        ((1, 150, 65_535), True),
        ((0, 255), False),  # a mask
        ((0, 100, 250, 255), False),  # colours or numbers of instances, all the way up
        ((0, 20, 254), False),
        ((0, 20, 300), False),
        ((-1, 0, 20), False),
    ],
)
def test_the_reminder_comes_only_where_it_is_due(values: tuple[int, ...], warned: bool) -> None:
    labels = np.resize(np.array(values), (1, 4, 4))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        st.prepare_labels(make_tree([(4, 4)], images=1), labels)
    assert len(told) == warned
    if warned:
        assert told[0].filename == __file__
        assert f"ignore={values[-1]}" in str(told[0].message)


def test_a_study_ignores_too(tmp_path: Path) -> None:
    drawn = st.scenes.sample(2, seed=3)
    for place in range(2):
        Image.fromarray(drawn["pixels"].values[place]).save(tmp_path / f"p{place}.png")
        label = drawn["label"].values[place].astype(np.uint8)
        label[:48, :48] = 255
        indexed = Image.fromarray(label, "P")
        indexed.putpalette(bytes(range(256)) * 3)
        indexed.save(tmp_path / f"p{place}.tif")
        Image.fromarray(np.where(label == 255, -1, label.astype(np.int32))).save(tmp_path / f"p{place}.tiff")
    sets = {
        "ignored": {"files": "*.png", "labels": "*.tif", "ignore": 255},
        "kept": {"files": "*.png", "labels": "*.tif"},
        "minus": {"files": "*.png", "labels": "*.tiff"},
    }
    config = {"models": "scenes", "pictures": sets, "affinities": "vv", "layers": [[0]], "n_eigenvectors": 2,
              "scope": "dataset", "device": "cpu", "controls": False}  # fmt: skip
    with pytest.warns(UserWarning, match="give ignore=255"):
        result = run_study(read_study(config, folder=tmp_path), tmp_path / "out.html", progress=False)
    scores = {cell["pictures"]: json.dumps(cell["scores"]["values"]) for cell in result.record["cells"]}
    assert scores["ignored"] == scores["minus"] != scores["kept"]
    hashes = {cell["pictures"]: cell["content_sha256"] for cell in result.record["cells"]}
    assert hashes["ignored"] != hashes["kept"]
    assert "grid=grid, ignore=(255,))" in result.html.read_text()
