"""What somebody else registers, from a module of theirs, is offered wherever ours is."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from test_frozen import array, unpacked

import spectral_toolkit as st
from spectral_toolkit.cli import main
from spectral_toolkit.errors import AffinityError, SolverError, SpectralToolkitError

THEIRS = """
import holoviews as hv
import numpy as np
import torch
import spectral_toolkit as st


def prepare(features, *, sharpness=1.0):
    left, right = features.left.mean(1), features.right.mean(1)
    return lambda start, stop: torch.cdist(
        left[:, start:stop], right, compute_mode="donot_use_mm_for_euclid_dist"
    ).mul(-sharpness).exp()


def factors(features):
    left, right = (torch.nn.functional.relu(side.mean(1)) + 0.1 for side in (features.left, features.right))
    return left, left if features.is_symmetric else right


def through_factors(features):
    left, right = factors(features)
    return lambda start, stop: left[:, start:stop] @ right.transpose(-1, -2)


def careful(graph, images, n_eigenvectors, *, tolerance, factor=1.0, **settings):
    return st.solvers.exact.solve_images(graph, images, n_eigenvectors, tolerance=tolerance * factor, **settings)


SHARPNESS = st.kernels.Option("sharpness", "how fast it falls", "a number above 0", lambda value: value > 0)
Laplacian = st.kernels.register(
    st.kernels.Kernel(
        "laplacian", "exp(-sharpness |l - r|)", "exp(-|{} - {}|)", "Laplacian of theirs", prepare,
        options=(SHARPNESS, st.kernels.STEPS),
    )
)
st.kernels.register(
    st.kernels.Kernel(
        "product", "l' r of positive parts", "{}·{}", "products of theirs", through_factors, factors,
        scopes=("image", "dataset"),
    )
)
Careful = st.solvers.register(
    st.solvers.Solver("careful", "The exact solver, to a part of the tolerance.", careful, {"factor": (float, 0)})
)


def purity(table):
    return float(table.max(1).sum() / table.sum())


def spread(scored):
    return scored.each(lambda values, labels: float(values.std()))


st.scores.register(
    st.scores.Score("purity", "Purity of theirs", "largest overlaps / patches", "1: pure segments.", segments=purity)
)
st.scores.register(
    st.scores.Score(
        "spread", "Spread of theirs", "standard deviation", "How far values lie apart.", spread,
        high=float("inf"), higher_is_better=None,
    )
)


def leaves(root, split):
    return st.datasets.folder(root / split / "photos", root / split / "masks", ["soil", "leaf"])


st.datasets.register(
    st.datasets.DatasetLayout(
        "leaves", "Leaves of theirs", "SPLIT/photos, SPLIT/masks", "255: no label.", leaves, "all"
    )
)


def sizes(inputs):
    first = inputs.eig["eigenvector"].isel(image=0, component=0).transpose("y", "x").values
    return np.minimum(abs(first) * inputs.state.options["gain"], 1)


def tiles(shown, side):
    colours = np.zeros((*side.data.shape, 4), np.uint8)
    colours[..., 3] = 255 * shown.state.opacity * side.data
    return [st.views.Tile(colours, side.data, shown.small, "size of theirs", framed=[(0, 1)])]


def code(program, sides):
    first = f"abs({sides[0].eig}['eigenvector'].isel(component=0))"
    return [f"size{sides[0].suffix} = {first}", program.overlay(f"size{sides[0].suffix}", {})]


def dots(shown):
    values = shown.sides[0].eig["eigenvalue"].values[0]
    return hv.Scatter(list(enumerate(map(float, values))), "number", "eigenvalue")


GAIN = st.views.Slider("gain", "Gain", "How strongly the size is shown.", 1, 9, 2)
st.views.register(
    st.views.View("size", "Size of theirs", "How large <b> & where.", code, tiles, data=sizes, sliders=(GAIN,))
)
st.views.register(
    st.views.View(
        "dots", "Dots of theirs", "Eigenvalues as dots.", lambda program, sides: [f"{sides[0].eig}['eigenvalue']"],
        chart=dots, controls=("component",),
    )
)
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "third_party.py").write_text(THEIRS)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("third_party")
    finally:
        sys.path.remove(str(folder))
        for name in ("laplacian", "product"):
            st.kernels.unregister(name)
        st.solvers.unregister("careful")
        for name in ("purity", "spread"):
            st.scores.unregister(name)
        for name in ("size", "dots"):
            st.views.unregister(name)
        st.datasets.unregister("leaves")
        assert set(st.kernels.KERNELS) == {"softmax", "cosine", "shifted_cosine", "knn", "rbf"}
        assert set(st.solvers.SOLVERS) == {"exact", "gradient"}
        assert not {"purity", "spread"} & set(st.scores.SCORES)
        assert not {"size", "dots"} & set(st.views.VIEWS)


@pytest.fixture(scope="module")
def activations() -> xr.DataTree:
    return st.capture("scenes", st.scenes.sample(2, seed=0).pixels, progress=False)


def test_solve_takes_them_by_name_and_as_objects(theirs: Any, activations: xr.DataTree) -> None:
    named = st.affinity(activations, "vv", kernel="laplacian", sharpness=2, device="cpu")
    given = st.affinity(activations, "vv", kernel=theirs.Laplacian(sharpness=2), device="cpu")
    first = st.solve(named, 3, method="careful", factor=0.1, tolerance=1e-8)
    second = st.solve(given, 3, method=theirs.Careful(factor=0.1, tolerance=1e-8))
    xr.testing.assert_identical(first["eigenvector"], second["eigenvector"])
    assert first.attrs["kernel"] == "laplacian"
    assert first.attrs["method"] == "careful"
    assert float(first["residual"].max()) < 1e-8
    # The twin, written out: one layer, one image.
    layer, matrix = next(iter(given.to_dense(0).items()))
    value = activations[layer]["value"].isel(image=0).mean("head").stack(n=("y", "x"))
    vectors = value.transpose("n", "channel").values
    wanted = np.exp(-2 * np.linalg.norm(vectors[:, None] - vectors[None], axis=-1))
    np.testing.assert_allclose(matrix, wanted, atol=1e-5)


def test_a_kernel_with_factors_solves_a_whole_dataset_and_takes_new_images(activations: xr.DataTree) -> None:
    pytest.importorskip("third_party")
    eig = st.solve(st.affinity(activations, "vv", kernel="product", scope="dataset", device="cpu"), 3)
    extended = st.project(activations, eig, fitted=activations)
    overlap = np.abs((extended["eigenvector"] * eig["eigenvector"]).sum(("image", "y", "x")))
    norm = (eig["eigenvector"] ** 2).sum(("image", "y", "x"))
    assert float((overlap / norm).min()) > 0.95


def test_the_explorer_offers_a_kernel_and_says_its_formula(theirs: Any, activations: xr.DataTree) -> None:
    explorer = st.Explorer(activations, synchronous=True, device="cpu")
    try:
        explorer.set(affinity="vv", kernel="laplacian")
        assert explorer.eigenvectors.attrs["kernel"] == "laplacian"
        assert "Laplacian of theirs" in dict(explorer._controls.kernel.options)
        assert "laplacian" in explorer.code()
        page = st.freeze(activations, kinds="vv", kernel="laplacian", presets=["all"], n_eigenvectors=2, device="cpu")
        assert "laplacian" in page.html
    finally:
        explorer.close()


def test_reports_and_tables_name_them(theirs: Any, activations: xr.DataTree, tmp_path: Path) -> None:
    eig = st.solve(st.affinity(activations, "vv", kernel="laplacian", device="cpu"), 2, method="careful", factor=1.0)
    page = st.render_report(activations, {"vv": eig}, tmp_path / "a.html").read_text()
    assert "exp(-sharpness |l - r|)" in page
    tables = importlib.import_module("make_tables")
    assert "| `laplacian` |" in tables.kernel_table()
    assert "| `careful` |" in tables.solver_table()
    scores = tables.score_table()
    assert "| `purity` | eigenvectors, segments | yes | 0 to 1 | yes | largest overlaps / patches |" in scores
    assert "| `spread` | eigenvectors |  | 0 to inf | neither |" in scores
    assert "| `size` | Size of theirs | How large <b> & where. | `opacity`, `gain` |  | yes |" in tables.view_table()


@pytest.fixture(scope="module")
def explorer(theirs: Any, activations: xr.DataTree) -> Iterator[Any]:
    explorer = st.Explorer(activations, synchronous=True, device="cpu")
    yield explorer
    explorer.close()


def test_the_explorer_shows_their_views(theirs: Any, explorer: Any, activations: xr.DataTree, tmp_path: Path) -> None:
    explorer.set(view="size", affinity="vv", compare=True)
    assert ("Size of theirs", "size") in explorer._controls.view.options
    assert explorer.state.options == {"gain": 2.0}
    (slider,) = explorer._controls.sliders.values()
    assert slider.layout.display is None
    slider.value = 5
    assert explorer.state.options == {"gain": 5.0}
    first = np.abs(explorer.eigenvectors["eigenvector"].isel(image=0, component=0).transpose("y", "x").values)
    (tile,) = explorer._pictures.figures[0].tiles
    np.testing.assert_allclose(tile.values, np.minimum(5 * first, 1))
    assert Path(explorer.save_figure(str(tmp_path / "size.png"))).exists()
    program = explorer.code().replace("xr.open_datatree('activations.zarr', engine='zarr', consolidated=False)", "KEPT")
    shown: dict[str, Any] = {"KEPT": activations}
    exec(program.rsplit("\n", 2)[0], shown)
    np.testing.assert_allclose(np.squeeze(shown["size"].values), first, atol=1e-6)
    explorer.set(view="dots", component=2)
    assert slider.layout.display == "none"
    figure = explorer._pictures.charts[st.views.VIEWS["dots"]].figure
    assert len(figure.renderers[0].data_source.data["eigenvalue"]) == explorer.state.n_eigenvectors
    assert explorer._drawn().width > 100
    assert explorer.code().endswith("view = eig['eigenvalue']\nview\n")


def test_a_frozen_page_shows_their_views(theirs: Any, explorer: Any) -> None:
    explorer.set(view="size", affinity="vv", options={"gain": 3.0}, compare=False)
    page = explorer.to_html(presets=["all"], kinds="vv", n_eigenvectors=2, regions=False)
    assert 'title="How large &lt;b&gt; &amp; where.">Size of theirs</button>' in page.html
    assert '"view": "size"' in page.html
    head, data = unpacked(page.html)
    assert head["views"]["size"] == {"page": "drawn", "title": "Size of theirs", "alone": False}
    (tile,) = head["settings"][0][0]["drawn"]["size"]
    eig = st.solve(st.affinity(explorer.activations.isel(image=[0]), "vv", device="cpu"), 2)
    first = np.abs(eig["eigenvector"].isel(image=0, component=0).transpose("y", "x").values)
    assert np.abs(array(tile["colours"], data)[..., 3] - 255 * np.minimum(3 * first, 1)).max() <= 1
    assert tile["framed"] == [[0, 1]]
    assert head["settings"][0][0]["drawn"]["dots"].startswith("data:image/png;base64,")


def test_no_unknown_view_is_drawn_as_another(
    theirs: Any, explorer: Any, activations: xr.DataTree, tmp_path: Path
) -> None:
    explorer.set(view="grid")
    view = st.views.View(
        "passing", "Passing", "?", theirs.code, theirs.tiles, data=theirs.sizes, sliders=(theirs.GAIN,)
    )
    st.views.register(view)
    explorer.set(view="passing")
    path = explorer.save_bundle(tmp_path / "passing.zip")
    st.views.unregister("passing")
    with pytest.warns(UserWarning, match="saved in the view 'passing', which is not offered here"):
        st.Explorer.from_bundle(path, synchronous=True, device="cpu").close()
    with pytest.raises(SpectralToolkitError, match="view='passing' is not offered"):
        explorer.set(component=2)
    with pytest.raises(SpectralToolkitError, match=r"view='sise' is not offered \(did you mean 'size'\?\)"):
        explorer.set(view="sise")
    with pytest.raises(SpectralToolkitError, match="start cannot have view='passing'"):
        st.freeze(activations, kinds="vv", presets=["all"], n_eigenvectors=2, regions=False, start={"view": "passing"})
    explorer.set(view="component")


def test_a_view_that_fails_says_so(theirs: Any, explorer: Any) -> None:
    def fails(shown: Any) -> Any:
        raise KeyError("nothing there")

    st.views.register(st.views.View("failing", "Failing", "?", theirs.code, chart=fails))
    try:
        with pytest.raises(SpectralToolkitError, match=r"view 'failing' cannot be drawn \(KeyError: 'nothing there'\)"):
            explorer.set(view="failing")
        explorer.set(view="component")
    finally:
        st.views.unregister("failing")


def test_scores_of_theirs_are_computed_wherever_ours_are(theirs: Any) -> None:
    scenes = st.scenes.sample(3, seed=1)
    activations = st.capture("scenes", scenes.pixels, layers=[3], progress=False)
    labels = st.prepare_labels(activations, scenes.label)
    found = st.pathways(
        activations, labels, kinds="vv", n_eigenvectors=2, controls=False, n_bootstrap=4, progress=False, device="cpu"
    )
    eig = st.solve(st.affinity(activations, "vv", scope="dataset", device="cpu"), 2)
    vectors = eig["eigenvector"].transpose("image", "y", "x", "component").values
    joint = found.sel(kind="vv", layer="joint")
    assert float(joint["spread"]) == pytest.approx(vectors.std(), rel=1e-4)
    assert float(joint["spread_low"]) <= float(joint["spread"]) <= float(joint["spread_high"])
    assert 0 < float(joint["purity"]) <= 1
    alone = st.pathways(
        activations, kinds="vv", n_eigenvectors=2, controls=False, n_bootstrap=4, progress=False, device="cpu"
    )
    assert "spread" in alone
    assert "purity" not in alone
    segments = st.segment(eig, 4)
    scored = st.evaluate(segments, labels)
    got, wanted = (cells.values[labels.values >= 0] for cells in (segments, labels))
    most = sum(max(np.bincount(wanted[got == one])) for one in np.unique(got))
    assert float(scored["purity"]) == pytest.approx(most / len(got))
    assert "spread" not in scored
    assert [panel.get(0).vdims[0].name for panel in st.heat_map(found, names=("spread", "what"))] == ["spread", "what"]


def run_a_study(folder: Path, pictures: dict[str, Any]) -> dict[str, Any]:
    """Run one study cell on some pictures, with the third party's module; gives what it writes as JSON."""
    study = {
        "models": ["scenes"],
        "pictures": pictures,
        "affinities": ["vv"],
        "layers": [[3]],
        "n_eigenvectors": 2,
        "show": 1,
        "controls": False,
    }
    (folder / "study.yaml").write_text(json.dumps(study))
    words = ["report", "--config", str(folder / "study.yaml"), "--out", str(folder / "study.html")]
    assert main(["--with", "third_party", *words]) == 0
    return json.loads((folder / "study.json").read_text())


def test_a_study_reports_their_scores(theirs: Any, tmp_path: Path) -> None:
    record = run_a_study(tmp_path, {"made": {"scenes": {"n": 2}}})
    page = (tmp_path / "study.html").read_text()
    assert '<th scope="col">Purity of theirs</th>' in page
    assert '<th scope="col">Spread of theirs</th>' in page
    (cell,) = record["cells"]
    assert {"purity", "spread", "where"} <= set(cell["scores"]["values"])


def test_a_study_reads_their_layout(theirs: Any, tmp_path: Path) -> None:
    scenes = st.scenes.sample(2, seed=0)
    for place in range(2):
        for part, values in (("photos", scenes.pixels), ("masks", scenes.label.clip(0, 1).astype(np.uint8))):
            folder = tmp_path / "leaves" / "all" / part
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.values[place]).save(folder / f"{place}.png")
    record = run_a_study(tmp_path, {"theirs": {"dataset": {"layout": "leaves", "root": "leaves"}}})
    (pictures,) = record["pictures"]
    assert pictures["layout"] == "leaves"
    assert pictures["categories"] == ["soil", "leaf"]
    assert "| `leaves` | Leaves of theirs |" in importlib.import_module("make_tables").layout_table()


def test_the_command_line_takes_them(theirs: Any, activations: xr.DataTree, tmp_path: Path) -> None:
    store, out = tmp_path / "activations.zarr", tmp_path / "eig.zarr"
    activations.to_zarr(store)
    words = [
        "solve",
        "--activations",
        str(store),
        "--out",
        str(out),
        "--affinity",
        "vv",
        "--kernel",
        "laplacian",
        "--method",
        "careful",
    ]
    assert main(["--with", "third_party", *words, "--kernel-option", "sharpness=2"]) == 0
    assert out.exists()


def test_a_module_that_cannot_be_imported_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--with", "not_there", "doctor"]) == 2
    assert "--with 'not_there' cannot be imported" in capsys.readouterr().err


def test_what_is_no_row(theirs: Any) -> None:
    made: Any = (st.kernels, st.solvers, st.scores, st.views)
    for module in made:
        with pytest.raises(SpectralToolkitError, match=f"A str cannot be registered: give a st.{module.__name__[17:]}"):
            module.register("name")
        with pytest.raises(SpectralToolkitError, match="'never' was not registered"):
            module.unregister("never")
    with pytest.raises(SpectralToolkitError, match="'where' is built in"):
        st.scores.register(st.scores.Score("where", "?", "?", "?", theirs.spread))
    with pytest.raises(SpectralToolkitError, match="'grid' is built in"):
        st.views.register(st.views.View("grid", "?", "?", theirs.code, theirs.tiles))
    with pytest.raises(SpectralToolkitError, match="score 'a b' cannot be registered"):
        st.scores.register(st.scores.Score("a b", "?", "?", "?", theirs.spread))
    with pytest.raises(SpectralToolkitError, match="'x_low' ends like the interval"):
        st.scores.register(st.scores.Score("x_low", "?", "?", "?", theirs.spread))
    with pytest.raises(SpectralToolkitError, match="'x' computes nothing"):
        st.scores.Score("x", "?", "?", "?")
    with pytest.raises(SpectralToolkitError, match="'x' has the range 1 to 1"):
        st.scores.Score("x", "?", "?", "?", theirs.spread, low=1, high=1)
    with pytest.raises(SpectralToolkitError, match="'x' does not say how it is drawn"):
        st.views.View("x", "?", "?", theirs.code)
    with pytest.raises(SpectralToolkitError, match="'x' names the control 'colour'"):
        st.views.View("x", "?", "?", theirs.code, theirs.tiles, controls=("colour",))


def test_what_is_no_kernel_and_what_was_not_registered(theirs: Any, activations: xr.DataTree) -> None:
    with pytest.raises(AffinityError, match="kernel=3 is not offered: use one of .*, or an object of st.kernels"):
        st.affinity(activations, "vv", kernel=3)  # pyright: ignore[reportArgumentType]
    stranger = st.kernels.Kernel("stranger", "?", "{}{}", "?", theirs.prepare)
    with pytest.raises(AffinityError, match=r"'stranger' has not been registered: call st\.kernels\.register"):
        st.affinity(activations, "vv", kernel=stranger)
    with pytest.raises(AffinityError, match="'rbf' is built in"):
        st.kernels.register(st.kernels.Kernel("rbf", "?", "{}{}", "?", theirs.prepare))
    with pytest.raises(AffinityError, match="needs factors="):
        st.kernels.register(st.kernels.Kernel("x", "?", "{}{}", "?", theirs.prepare, scopes=("dataset",)))
    with pytest.raises(AffinityError, match="sharpness=-1 is out of range: expected a number above 0"):
        st.affinity(activations, "vv", kernel="laplacian", sharpness=-1)
    with pytest.raises(AffinityError, match="sharpness is given twice"):
        st.affinity(activations, "vv", kernel=theirs.Laplacian(sharpness=1), sharpness=2)
    with pytest.raises(SolverError, match="'exact' is built in"):
        st.solvers.register(st.solvers.Solver("exact", "?", theirs.careful))
    graph = st.affinity(activations, "vv", device="cpu")
    with pytest.raises(SolverError, match="factor=0 is out of range"):
        st.solve(graph, 2, method="careful", factor=0)
    with pytest.raises(SolverError, match="'other' has not been registered"):
        st.solve(graph, 2, method=st.solvers.Solver("other", "?", theirs.careful))
