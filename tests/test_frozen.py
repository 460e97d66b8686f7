"""The frozen page: its numbers are those of the solver, it is one safe file, and it shows itself in notebooks."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from eigen_fixtures import LAYERS, activations, pictures
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image
from test_report import HOSTILE, Elements

import spectral_toolkit as st
from spectral_toolkit._affinity.presets import PRESETS, preset_weights
from spectral_toolkit._affinity.resampling import Resampling
from spectral_toolkit._explorer.patch_rows import Sources, all_joint_rows, all_layer_rows, choose_sources
from spectral_toolkit._explorer.precomputed import precompute
from spectral_toolkit._render.composite import colour_field, symmetric_limit
from spectral_toolkit._views.frozen_page.packing import quantised_field, quantised_rows
from spectral_toolkit.errors import AffinityError, SpectralToolkitError


def unpacked(html: str) -> tuple[dict[str, Any], bytes]:
    text = re.search(r'<script type="application/octet-stream" id="block">([^<]*)</script>', html)
    assert text
    data = zlib.decompress(base64.b64decode(text[1]))
    length = int.from_bytes(data[:4], "little")
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def array(place: dict[str, Any], data: bytes) -> np.ndarray:
    n = int(np.prod(place["shape"]))
    return np.frombuffer(data, np.uint8, n, place["at"]).reshape(place["shape"])


@pytest.fixture(scope="module")
def page() -> Any:
    return st.freeze(activations(names=("plain", HOSTILE)), n_eigenvectors=3, device="cpu")


def test_the_page_holds_what_the_solver_says(page: Any) -> None:
    head, data = unpacked(page.html)
    tree = activations(names=("plain", HOSTILE))
    assert [kind["key"] for kind in head["kinds"]] == ["qk", "vv"]
    assert [preset["name"] for preset in head["presets"]] == list(PRESETS)
    for kind in range(2):
        for preset, name in enumerate(PRESETS):
            graph = st.affinity(tree, ("qk", "vv")[kind], weights=preset_weights(LAYERS, name), device="cpu")
            eig = st.solve(graph, 3)
            for index in range(2):
                found = head["settings"][kind * 4 + preset][index]
                fields = eig["eigenvector"].isel(image=index).transpose("component", "y", "x").values
                limits = np.array(found["limits"])[:, None, None]
                read = (2.0 * array(found["fields"], data).astype(float) / 255 - 1) * limits
                assert np.abs(read - fields).max() <= 0.6 * 2 / 255 * limits.max()
                assert found["numbers"]["eigenvalue"] == pytest.approx(eig.eigenvalue[index].values, rel=1e-3)
                assert [bar[0] for bar in found["layers"][0]] == ["0", "1", "2"]


def test_colours_of_bytes_are_those_of_the_report() -> None:
    field = np.random.default_rng(0).normal(size=(5, 7))
    limit = symmetric_limit(field)
    from spectral_toolkit._render.colour import DIVERGING

    assert np.array_equal(DIVERGING[quantised_field(field, limit)], colour_field(field, limit))


@given(some.integers(1, 5), some.integers(1, 40))
def test_rows_use_the_whole_range_beside_the_patch_itself(n_sources: int, n_cells: int) -> None:
    rows = np.random.default_rng(n_cells).random((n_sources, n_cells, 1)).astype(np.float32)
    rows[:, 0] += 5
    quantised = quantised_rows(rows)
    assert (quantised[:, 0] == 255).all()
    if n_cells > 1:
        others = np.sort(rows[:, 1:, 0], axis=1)
        assert (np.sort(quantised[:, 1:, 0], axis=1)[:, -1] == 255).all()
        expected = np.sqrt(others / others[:, -1:]) * 255
        assert np.abs(np.sort(quantised[:, 1:, 0], axis=1) - expected).max() <= 0.51
    assert (quantised_rows(np.zeros((n_sources, n_cells, 1))) == 0).all()


def mixed_tree() -> xr.DataTree:
    """Layers on grids of their own, as a U-Net has."""
    random = np.random.default_rng(1)
    children = {}
    for depth, grid in enumerate([(4, 6), (2, 3), (4, 6), (8, 12)]):
        children[f"layer{depth}"] = xr.DataTree(
            xr.Dataset(
                {"value": (("image", "head", "y", "x", "channel"), random.normal(size=(2, 2, *grid, 4)))},
                attrs={"depth": depth, "scale": 0.5},
            )
        )
    root = xr.Dataset({"pixels": (("image", "y_px", "x_px", "rgb"), pictures(2))}, {"image": ["a", "b"]})
    return xr.DataTree(root, children=children)


def test_rows_of_many_patches_are_those_of_each_alone() -> None:
    graph = st.affinity(mixed_tree(), "vv", device="cpu", weights=[1, 0.5, 2, 0])
    sources = Sources(2, 3)
    joint, layers = all_joint_rows(graph, sources), all_layer_rows(graph, sources)
    for image in range(2):
        dense = graph.to_dense(image)
        w = np.zeros((24, 24))
        for (name, matrix), weight in zip(dense.items(), (0.5, 0.25, 1, 0), strict=True):
            rows, columns = graph.activations[name].sizes["y"], graph.activations[name].sizes["x"]
            g = Resampling((4, 6), (rows, columns)).dense().numpy()
            w += weight * 24 / matrix.sum() * g.T @ matrix @ g
        for place, (row, column) in enumerate(sources.cells((4, 6))):
            assert np.allclose(joint[image, place].ravel(), w[row * 6 + column], atol=1e-5)
        for place, (row, column) in enumerate(sources.cells((8, 12))):
            for name, grid in (("layer0", (4, 6)), ("layer1", (2, 3)), ("layer3", (8, 12))):
                g = Resampling((8, 12), grid).dense().numpy()[:, row * 12 + column]
                expected = dense[name] @ (g / g.sum())
                assert np.allclose(layers[name][image, place].ravel(), expected, atol=1e-5)


@given(some.integers(1, 60), some.integers(1, 60), some.integers(1, 8), some.integers(0, 10**6))
def test_the_coarse_grid_fits_the_budget_and_no_finer_one_would(
    rows: int, columns: int, images: int, budget: int
) -> None:
    grid = (rows, columns)
    sources = choose_sources([grid] * 3, images, 2, 4, budget)
    cost = images * 2 * (4 * rows * columns + 3 * min(rows, 16) * min(columns, 16))
    if sources is None:
        assert cost > budget
        return
    assert sources.rows * sources.columns * cost <= budget
    assert sources.rows <= rows
    assert sources.columns <= columns
    cells = sources.cells(grid)
    assert len(set(cells)) == len(cells)
    if (sources.rows, sources.columns) != grid:
        longer = max(sources.rows, sources.columns) + 1
        scale = longer / max(grid)
        assert max(1, round(rows * scale)) * max(1, round(columns * scale)) * cost > budget


def test_presets_are_thirds() -> None:
    for n_layers in range(1, 14):
        layers = [f"l{place}" for place in range(n_layers)]
        chosen = {name: [k for k, v in preset_weights(layers, name).items() if v] for name in PRESETS}
        assert chosen["all"] == layers
        assert {len(chosen[name]) for name in PRESETS[1:]} == {-(-n_layers // 3)}
        assert chosen["early"][0] == layers[0]
        assert chosen["late"][-1] == layers[-1]
        assert set(chosen["early"]) | set(chosen["middle"]) | set(chosen["late"]) == set(layers)
    with pytest.raises(AffinityError, match="preset='inner' is not offered"):
        preset_weights(["a"], "inner")


def test_weights_of_the_users_own_are_a_preset_too() -> None:
    content = precompute(activations(), kinds="vv", presets={"mine": {LAYERS[1]: 2.0}}, n_eigenvectors=2, device="cpu")
    assert content.setting("vv", "mine").weights == {LAYERS[0]: 0.0, LAYERS[1]: 2.0, LAYERS[2]: 0.0}
    with pytest.raises(SpectralToolkitError, match="The preset 'x' names 'layer 9', which is not a layer"):
        precompute(activations(), presets={"x": {"layer 9": 1.0}})
    cases: list[tuple[dict[str, Any], str]] = [
        ({"presets": {}}, "presets={}"),
        ({"presets": []}, "presets="),
        ({"kinds": ()}, "kinds="),
    ]
    for options, message in cases:
        with pytest.raises(SpectralToolkitError, match=f"{message}.*is empty"):
            precompute(activations(), **options)


def test_names_are_text_wherever_they_go(page: Any) -> None:
    elements = Elements(page.html)
    assert len(elements.scripts) == 3
    assert elements.named("h1") == [{}]
    assert [one["alt"] for one in elements.named("img") if one.get("class") == "picture"] == ["plain", HOSTILE]
    assert all(one.get("alt") for one in elements.named("img"))
    head, _ = unpacked(page.html)
    assert head["images"][1]["name"] == HOSTILE
    in_notebook = Elements(page._repr_html_())
    assert [tag for tag, _ in in_notebook.tags] == ["iframe", "div", "img"]
    assert in_notebook.named("iframe")[0]["srcdoc"] == page.html


def test_only_our_script_may_run_and_nothing_is_loaded(page: Any) -> None:
    elements = Elements(page.html)
    policy = next(one["content"] for one in elements.named("meta") if one.get("http-equiv"))
    assert policy
    ours = base64.b64encode(hashlib.sha256(elements.scripts[-1].encode()).digest()).decode()
    assert f"script-src 'sha256-{ours}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:")
    # Style attributes and our own style sheet refer to nothing outside.
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", page.html.replace('href="#', ""))
    assert "url(" not in re.sub(r"url\(data:", "", page.html)
    script = (Path(st.__file__).parent / "_views" / "templates" / "frozen.js").read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|fetch|XMLHttp|import\(", script
    )


def test_equal_input_gives_equal_bytes(page: Any) -> None:
    again = st.freeze(activations(names=("plain", HOSTILE)), n_eigenvectors=3, device="cpu")

    def timeless(html: str) -> str:
        return re.sub(r"<tr><th scope=\"row\">seconds</th><td>[^<]*</td></tr>", "", html)

    assert timeless(again.html) == timeless(page.html)


def test_from_a_bundle_without_a_model(tmp_path: Path, page: Any) -> None:
    path = st.save_bundle(tmp_path / "x.zip", activations(names=("plain", HOSTILE)), float16=False)
    thawed = st.freeze(st.load_bundle(path), path=tmp_path / "deep" / "x.html", n_eigenvectors=3, device="cpu")
    assert (tmp_path / "deep" / "x.html").read_text() == thawed.html
    ours, theirs = unpacked(thawed.html), unpacked(page.html)
    assert ours[1] == theirs[1]


def test_nothing_of_anybody_else_is_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<p>thesis")
    for path, message in ((mine, "was not written by spectral_toolkit"), (tmp_path, "is a folder")):
        with pytest.raises(SpectralToolkitError, match=message):
            st.freeze(activations(), path=path)
    assert mine.read_text() == "<p>thesis"
    made = st.freeze(
        activations(), path=tmp_path / "x.html", kinds="vv", presets=["all"], n_eigenvectors=1, device="cpu"
    )
    assert made.save(tmp_path / "x.html").read_text() == made.html
    link = tmp_path / "link.html"
    link.symlink_to(tmp_path / "x.html")
    with pytest.raises(SpectralToolkitError, match="nothing was touched"):
        made.save(link)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link.html", "mine.html", "x.html"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": 7}, "No images were given with the model .a int.: give"),
        ({"start": {"view": "cinema"}}, "start cannot have view='cinema': use one of 'component', 'grid'"),
        ({"start": {"image": 2}}, "start cannot have image=2: use one of 0, 1"),
        ({"start": {"threshold": 2}}, "threshold=2 is out of range"),
        ({"start": {"zoom": 2}}, "start has no 'zoom': it may hold image"),
        ({"start": {"view": "rgb"}}, "start cannot have view='rgb'"),  # two eigenvectors are no three
        ({"start": {"other_preset": "late"}}, "start cannot have other_preset='late': use one of 'all'"),
        ({"start": {"patch": (9, 0)}}, "start cannot have patch=\\(9, 0\\): give a row below 4"),
        ({"opacity": 2}, "opacity=2 is out of range"),
        ({"n_eigenvectors": 99}, "layers of preset 'all' have 32 patches at most, which carry 31 eigenvectors"),
        ({"path": [1]}, "path"),
        ({"kernel": {"v": "rbf"}}, "kernel names 'v'"),
        ({"images": pictures(1)}, "1 images were given"),
    ],
)
def test_what_cannot_be_frozen(options: dict[str, Any], message: str) -> None:
    given = {
        "source": activations(),
        "kinds": "vv",
        "presets": ["all"],
        "n_eigenvectors": 2,
        "device": "cpu",
        **options,
    }
    with pytest.raises(SpectralToolkitError, match=message):
        st.freeze(given.pop("source"), **given)


def test_a_notebook_gets_a_frame_and_a_still_picture(page: Any) -> None:
    made = page._repr_mimebundle_()
    assert set(made) == {"text/html", "text/plain"}
    frame, still = (Elements(made["text/html"]).named(tag)[0] for tag in ("iframe", "img"))
    # In an opaque origin: the page cannot reach the notebook around it.
    assert frame["sandbox"] == "allow-scripts"
    assert Elements(made["text/html"]).named("div") == [{"popover": None}]
    assert still["alt"] == "What tiny-vit groups together: QK and VV: the images and their first eigenvectors"
    picture = Image.open(io.BytesIO(base64.b64decode((still["src"] or "").split(",")[1])))
    # Three columns, the picture and two affinities, for each of two pictures.
    assert picture.width > 3 * 96
    assert repr(page).startswith("<FrozenPage: What tiny-vit groups together: QK and VV, ")


def test_eight_pictures_stay_below_ten_megabytes() -> None:
    """At the size that benchmarks speak of, 1,024 tokens and 12 layers, and of noise, which nothing compresses."""
    random = np.random.default_rng(0)
    shape = ("image", "head", "y", "x", "channel")
    children = {
        f"layers.{depth}": xr.DataTree(
            xr.Dataset(
                {"value": (shape, random.normal(size=(1, 1, 32, 32, 8)).astype(np.float32))},
                attrs={"depth": depth, "scale": 0.5},
            )
        )
        for depth in range(12)
    }
    noise = random.integers(0, 255, (1, 384, 512, 3), dtype=np.uint8)
    root = xr.Dataset({"pixels": (("image", "y_px", "x_px", "rgb"), noise)}, {"image": ["a"]})
    tree = xr.DataTree(root, children=children)
    # One picture and one affinity of the eight and two; rows are bounded for all together.
    one = st.freeze(tree, kinds=["vv"], row_bytes=4 * 2**20 // 16, device="cpu")
    fixed = len(st.freeze(activations(), kinds="vv", presets=["all"], n_eigenvectors=1, row_bytes=0).html)
    picture = len(Elements(one.html).named("img")[0]["src"] or "")
    head, _ = unpacked(one.html)
    assert head["sources"] == [6, 6]
    assert 8 * picture + 16 * (len(one.html) - picture - fixed) + fixed < 10e6
