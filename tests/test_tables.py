"""Every result as a tidy data frame: named columns, one observation a row, the numbers of the result itself."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import spectral_toolkit as st
from spectral_toolkit.errors import SpectralToolkitError

SCENES = st.scenes.sample(3, seed=0)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    acts = st.capture("scenes", SCENES.pixels, quantities=("query", "key", "value", "token"), progress=False)
    graph = st.affinity(acts, "vv", device="cpu")
    joint = st.affinity(acts, "vv", scope="dataset", device="cpu")
    eig, all_images = st.solve(graph, 3), st.solve(joint, 3)
    segments = st.segment(eig, 3)
    labels = st.prepare_labels(acts, SCENES.label)
    return {
        "eigenvectors": eig,
        "of one problem": all_images,
        "of one image": eig.isel(image=0),
        "scores": st.eigenvector_scores(all_images, labels, n_bootstrap=2),
        "pathways": st.pathways(acts, SCENES.label, n_eigenvectors=2, controls=False, n_bootstrap=2, progress=False),
        "evaluation": st.evaluate(segments, SCENES.label),
        "segments": segments,
        "segments of one image": segments.isel(image=0),
        "refined": st.refine(segments, SCENES.pixels),
        "instances": st.instances(eig),
        "cut values": st.cut_costs(eig, graph),
        "distance": st.subspace_distance(eig, eig),
        "layer distances": st.layer_distances(graph, graph, 2),
        "norms": st.token_norms(acts),
        "outlying": st.outlying_masks(acts),
        "row": st.affinity_row(graph, (1, 2)),
        "statements": st.trust_statements(eig.isel(image=0)),
        "memory": st.estimate_memory("scenes", SCENES.pixels),
        "labels": labels,
        "hierarchy": st.hierarchy(st.segment(eig, 3, method="cuts", graph=graph)),
    }


def test_every_result_has_a_table(results: dict[str, Any]) -> None:
    for name, result in results.items():
        table = st.to_dataframe(result)
        assert len(table), name
        assert all(isinstance(column, str) and column.isidentifier() for column in table.columns), (name, table.columns)
        assert isinstance(table.index, pd.RangeIndex), f"{name}: labels are columns, not an index"
        numbers = [column for column in table if column in ("value", "low", "high", "score", "share")]
        assert (
            not table.drop(columns=numbers).map(lambda cell: isinstance(cell, (xr.DataArray, np.ndarray))).any().any()
        )


def test_observations_are_not_repeated(results: dict[str, Any]) -> None:
    for name in ("pathways", "evaluation", "cut values", "distance", "layer distances", "hierarchy"):
        table = st.to_dataframe(results[name])
        assert not table.drop(columns=["value", "low", "high"]).duplicated().any(), name


def test_the_numbers_are_those_of_the_result(results: dict[str, Any]) -> None:
    scores = results["pathways"]
    table = st.to_dataframe(scores).set_index(["kind", "layer", "measure"])
    one = scores.sel(kind="vv", layer="joint")
    for measure in ("where", "what", "ari"):
        expected = [float(one[f"{measure}{end}"]) for end in ("", "_low", "_high")]
        assert [table[end]["vv", "joint", measure] for end in ("value", "low", "high")] == expected
    eig = results["eigenvectors"]
    assert st.to_dataframe(eig)["eigenvalue"].tolist() == eig["eigenvalue"].values.ravel().tolist()
    layers = st.to_dataframe(eig, "layers")
    assert list(layers.columns) == ["image", "component", "layer", "layer_share", "layer_mass"]
    sums: Any = layers.groupby(["image", "component"])["layer_share"].sum()
    assert np.allclose(sums, eig["eigenvalue"].values.ravel())
    assert len(st.to_dataframe(eig, "patches")) == eig["eigenvector"].size
    segments = st.to_dataframe(results["segments"])
    assert list(segments.columns) == ["image", "segment", "n_patches", "share"]
    patches: Any = segments.groupby("image")["n_patches"].sum()
    assert list(patches) == [144] * 3
    assert "n_pixels" in st.to_dataframe(results["refined"])
    instances = st.to_dataframe(results["instances"])
    assert list(instances.columns) == ["image", "instance", "score", "n_patches"]
    assert len(instances) == int(results["instances"]["n_instances"].sum())


def test_what_is_no_result_is_refused(results: dict[str, Any]) -> None:
    with pytest.raises(SpectralToolkitError, match="A int is no result"):
        st.to_dataframe(3)
    with pytest.raises(SpectralToolkitError, match="'everything'"):
        st.to_dataframe(results["eigenvectors"], "everything")


def test_a_report_offers_its_tables_from_the_file_itself(tmp_path: Path) -> None:
    acts = st.capture("scenes", SCENES.pixels[:1], layers=[0], progress=False)
    eig = st.solve(st.affinity(acts, "vv", device="cpu"), 2)
    page = st.render_report(acts, {"mine": eig}, tmp_path / "report.html").read_text(encoding="utf-8")
    found = dict(re.findall(r'<a download="([^"]+)" href="data:text/csv[^,"]+;base64,([^"]+)">', page))
    assert list(found) == ["report-eigenvalues.csv", "report-layers.csv"]
    table = pd.read_csv(io.BytesIO(base64.b64decode(found["report-eigenvalues.csv"])))
    assert table["result"].tolist() == ["mine", "mine"]
    assert table["eigenvalue"].tolist() == pytest.approx(eig["eigenvalue"].values.ravel().tolist(), rel=1e-12)
