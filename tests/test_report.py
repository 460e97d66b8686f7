"""The report as a file: whole, small, safe, repeatable, and saying what it shows."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from eigen_fixtures import LAYERS, activations, eigenvectors, pictures
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._explorer.recipe import capture_lines, recipe, solve_lines
from spectral_toolkit._io.images import load_images
from spectral_toolkit._render import marks
from spectral_toolkit._render.composite import colour_field
from spectral_toolkit._views.report import render_report, report_html
from spectral_toolkit._views.report_data import KINDS, build_page
from spectral_toolkit.errors import AffinityError, SpectralToolkitError

HOSTILE = "</title></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7*7 }}&amp;"


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text inside scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def solved(**options) -> dict[str, xr.Dataset]:
    return {kind: eigenvectors(kind, **options) for kind in ("qk", "vv")}


def from_uri(uri: str | None) -> np.ndarray:
    assert uri is not None
    data = base64.b64decode(uri.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="module")
def page() -> Elements:
    return Elements(report_html(activations(), solved(isolated=((0, 3, 7),))))


def test_every_eigenvector_is_a_tile_of_one_pixel_a_patch(page: Elements) -> None:
    tiles = [attrs for attrs in page.named("img") if attrs.get("class") == "tile"]
    assert len(tiles) == 2 * 2 * 4
    eig = eigenvectors("qk")
    for component in (1, 2, 3, 4):
        field = eig.eigenvector.sel(image="picture-1", component=component).values
        wanted = f"QK eigenvector {component} over picture-1"
        (tile,) = [attrs for attrs in tiles if (attrs["alt"] or "").startswith(wanted)]
        assert (from_uri(tile["src"]) == colour_field(field, np.abs(field).max())).all()
    shown = [attrs["data-component"] for attrs in tiles if "hidden" not in attrs]
    assert shown == ["1"] * 4, "without JavaScript the first component is seen"


def test_every_picture_has_words(page: Elements) -> None:
    assert all(attrs.get("alt") for attrs in page.named("img"))
    drawings = [attrs for tag, attrs in page.tags if tag == "svg" or attrs.get("role") == "img"]
    assert len(drawings) > 8
    assert all(attrs.get("aria-label") for attrs in drawings)
    spectra = [attrs["aria-label"] or "" for attrs in page.named("svg") if attrs.get("class") == "spectrum"]
    assert len(spectra) == 4
    assert "The widest gap comes after component 2." in spectra[0]
    assert "1: 0.0125" in spectra[0]


def test_page_loads_nothing(page: Elements) -> None:
    html = report_html(activations(), solved())
    assert not re.search(r"(?:src|href|url|@import)\s*[=(]\s*[\"']?\s*(?:https?:)?//", html)
    for tag, attrs in page.tags:
        assert tag not in ("iframe", "object", "embed", "audio", "video", "base")
        for name in ("src", "href", "srcset", "data", "poster"):
            assert (attrs.get(name) or "data:")[:5] in ("data:", "#pict"), (tag, attrs)
    (policy,) = [attrs["content"] for attrs in page.named("meta") if attrs.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    digest = base64.b64encode(hashlib.sha256(page.scripts[-1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_hostile_names_are_text_everywhere() -> None:
    names = (HOSTILE, "</style><script>alert(3)</script>")
    layers = (f"layer<script>{HOSTILE}", "b", "c")
    attrs = {"model": HOSTILE, HOSTILE: HOSTILE, "notes": HOSTILE}
    tree = activations(names=names, attrs=attrs)
    tree[LAYERS[0]].attrs[HOSTILE] = HOSTILE
    answers = solved(names=names, layers=layers, attrs={**attrs, "kernel": HOSTILE, "method": HOSTILE})
    answers[HOSTILE] = eigenvectors(HOSTILE, names=names, layers=layers, isolated=((0, 0, 0),))
    html = report_html(tree, answers, title=HOSTILE)
    hostile, plain = Elements(html), Elements(report_html(activations(), solved()))
    assert {tag for tag, _ in hostile.tags} == {tag for tag, _ in plain.tags}
    assert len(hostile.named("script")) == 2
    assert not [attrs for _, attrs in hostile.tags if any(name.startswith("on") for name in attrs)]
    assert hostile.scripts[-1] == plain.scripts[-1]
    assert "alert(1)</script>" not in html
    assert "{{ 7*7 }}" in (hostile.named("img")[0]["alt"] or "")
    record = json.loads(hostile.scripts[0])
    assert record["images"] == list(names)
    assert record["activations"][HOSTILE] == HOSTILE
    assert record["layers"][LAYERS[0]][HOSTILE] == HOSTILE


def test_provenance_holds_every_attribute() -> None:
    tree, answers = activations(attrs={"odd": float("nan"), "array": np.arange(2)}), solved(attrs={"notes": "enlarged"})
    html = report_html(tree, answers)
    record = json.loads(Elements(html).scripts[0])
    assert set(record["activations"]) == set(tree.attrs)
    assert record["activations"]["odd"] is None
    assert record["activations"]["array"] == [0, 1]
    for kind, eig in answers.items():
        assert set(record["eigenvectors"][kind]) == set(eig.attrs)
    for layer in LAYERS:
        assert record["layers"][layer] == tree[layer].attrs
        assert layer in html
    for name in [*tree.attrs, *answers["qk"].attrs]:
        if not name.startswith("activations_"):
            assert f'<th scope="row">{name}</th>' in html
    assert "enlarged" in html


def test_trust_is_said_in_words() -> None:
    answers = solved(isolated=((0, 3, 7),))
    answers["vv"]["converged"][1, 1] = False
    built = build_page(activations(), answers, activations(), "title", 512)
    qk, vv = built.cards[0].panels
    assert qk.statistics is not None
    assert qk.statistics.trust[0].level == "warning"
    assert "1 isolated patch" in qk.tiles[0].flags
    assert "cannot be told apart from 3" in qk.tiles[3].flags
    assert vv.tiles[1].flags == ["1 isolated patch"]
    assert built.cards[1].panels[1].tiles[1].flags == ["not converged"]
    html = report_html(activations(), answers)
    assert "Eigenvectors 2 did not converge" in html
    assert '<span class="level">Warning</span>' in html


def test_layers_are_split_as_the_answer_splits_them() -> None:
    eig = eigenvectors("vv")
    bars = marks.layer_bars(eig, 1, 2)
    share = eig.layer_share.sel(component=2).isel(image=1).values
    mass = eig.layer_mass.sel(component=2).isel(image=1).values
    value = float(eig.eigenvalue.sel(component=2).isel(image=1))
    assert [bar.short for bar in bars] == ["0", "1", "2"]
    assert sum(bar.share for bar in bars) == pytest.approx(1)
    for bar, own_share, own_mass in zip(bars, share, mass, strict=True):
        assert bar.cut == pytest.approx(own_share / own_mass)
        assert bar.share == pytest.approx(own_share / value)
    eig["layer_mass"][1, 1, 0] = 0
    eig["eigenvalue"][1, 1] = 0
    empty = marks.layer_bars(eig, 1, 2)[0]
    assert (empty.cut, empty.share) == (None, 0)
    assert "no edges" in report_html(activations(), {"vv": eig})


def test_spectrum_marks_the_widest_gap_and_the_groups() -> None:
    eig = eigenvectors("qk")
    chart = marks.spectrum(eig, 0)
    heights = [point.y for point in chart.points]
    assert heights == sorted(heights, reverse=True)
    assert chart.gap_after == 2
    assert chart.gap is not None
    _, top, bottom = chart.gap
    assert top == pytest.approx(chart.points[2].y)
    assert bottom == pytest.approx(chart.points[1].y)
    assert [(x1, x2) for x1, x2, _ in chart.groups] == [(chart.points[2].x, chart.points[3].x)]
    unknown = marks.spectrum(eig.assign(eigengap=eig.eigengap * np.nan, eigenvalue=eig.eigenvalue * 0), 0)
    assert (unknown.gap, unknown.gap_after) == (None, None)


def test_shown_in_its_own_shape_whatever_the_model_saw() -> None:
    squashed = activations(height=64, width=64, original=(40, 80))
    (card, _) = build_page(squashed, solved(), squashed, "title", 512).cards
    assert card.ratio == pytest.approx(2)


def test_dataset_scope_has_one_spectrum_and_shared_colours() -> None:
    html = report_html(activations(), solved(scope="dataset"))
    spectra = [attrs for attrs in Elements(html).named("svg") if attrs.get("class") == "spectrum"]
    assert len(spectra) == 2
    assert "QK: all images as one problem" in html
    built = build_page(activations(), solved(scope="dataset"), activations(), "title", 512)
    assert {card.panels[0].tiles[0].limit for card in built.cards} == {"2"}


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    first = render_report(activations(), solved(), tmp_path / "new" / "a.html")
    second = render_report(activations(), solved(), tmp_path / "b.html")
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.html", "b.html", "new"]


def test_eight_large_pictures_stay_under_five_megabytes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = [
        np.asarray(Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).resize((640, 480)))
        for _ in range(8)
    ]
    answers = solved(n_images=8, grid=(32, 32), n_components=10, layers=tuple(f"block.{n}" for n in range(24)))
    for eig in answers.values():
        eig["eigenvector"] = eig.eigenvector.copy(data=random.normal(size=eig.eigenvector.shape))
    path = render_report(activations(8), answers, tmp_path / "report.html", images=noise)
    assert path.stat().st_size < 5e6


def test_tiles_and_pictures_survive_their_encoding() -> None:
    random = np.random.default_rng(0)
    many = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    few = colour_field(random.normal(size=(30, 40)), 2.0)
    for pixels in (many, few, pictures(1)[0]):
        assert (from_uri(marks.tile_uri(pixels)) == pixels).all()
    assert (from_uri(marks.picture_uri(few)) == few).all()
    large = pictures(1, 300, 200)[0]
    assert np.abs(from_uri(marks.picture_uri(large)).astype(int) - large).mean() < 4


def test_answers_alone_are_enough_with_pictures() -> None:
    html = report_html(None, solved(), images=pictures())
    assert "What tiny-vit groups together" in html
    record = json.loads(Elements(html).scripts[0])
    assert record["activations"] == {"model": "tiny-vit"}


def test_unknown_affinities_and_any_number_of_them() -> None:
    answers = {kind: eigenvectors(kind) for kind in (*KINDS, "new-kind")}
    built = build_page(activations(), answers, activations(), "title", 512)
    labels = [panel.kind.label for panel in built.cards[0].panels]
    assert labels == ["QK", "VV", "KK", "QQ", "Token", "QK before rotation", "NEW-KIND"]
    unequal = {"qk": eigenvectors("qk", n_components=2), "vv": eigenvectors("vv", n_components=5)}
    assert build_page(activations(), unequal, activations(), "title", 512).components == [1, 2, 3, 4, 5]
    report_html(activations(), unequal)


def test_recipe_is_python_and_spells_out_what_differs() -> None:
    answers = solved(attrs={"kernel_options": json.dumps({"threshold": 0.2, "x=1)\nimport os #": 1})})
    answers["vv"]["layer_weight"][:] = 1.0
    lines = "\n".join(solve_lines(answers["qk"], "qk"))
    assert "threshold=0.2" in lines
    assert "import os" not in lines
    assert "weights={\n        'encoder.layer.0.attention': 0.33" in lines
    assert "weights" not in "\n".join(solve_lines(answers["vv"], "vv"))
    attrs = {str(name): value for name, value in activations().attrs.items()} | {
        "layers": json.dumps(LAYERS),
        "image_size": "[40, 80]",
        "pictures_sha256": "ab",
        "revision": "main",
    }
    text = recipe(answers, attrs, title="T", pictures="'photos/*.jpg'")
    compile(text, "recipe", "exec")
    for line in (
        "model = st.load_model('tiny-vit', revision='main')",
        "st.load_images('photos/*.jpg')",
        "images.sha256 == 'ab'",
        "size=(40, 80)",
        "'encoder.layer.1.attention'",
    ):
        assert line in text
    assert max(map(len, text.splitlines())) <= 120
    awkward = {"model": "a'\n\"b", "layers": "[not json", "image_size": json.dumps([HOSTILE])}
    for pictures_source in (None, "'p'"):
        text = recipe({HOSTILE: answers["qk"]}, awkward, title=HOSTILE, pictures=pictures_source)
        compile(text, "recipe", "exec")


def test_a_model_in_memory_is_asked_for_and_not_looked_up() -> None:
    for name, line in (
        ("ViTModel", "model = st.load_model(my_model)  # my_model: the ViTModel that was in memory"),
        ("facebook/dinov2-small", "model = st.load_model('facebook/dinov2-small')"),
        ("scenes", "model = st.load_model('scenes')"),
    ):
        assert line in capture_lines({"model": name}, "'photos/*.jpg'")


def test_fewer_layers_than_captured_are_spelled_out() -> None:
    eig = eigenvectors(layers=LAYERS[1:], attrs={"activations_layers": json.dumps(LAYERS)})
    assert "layers=['encoder.layer.1.attention', 'encoder.layer.2.attention']" in "\n".join(solve_lines(eig, "qk"))
    every = eigenvectors(attrs={"activations_layers": json.dumps(LAYERS)})
    assert "layers" not in "\n".join(solve_lines(every, "qk")).replace("encoder.layer", "").replace("weights", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((activations(), {}), "There is no result to report"),
        ((None, solved()), "There are no images to show"),
        ((activations(), {"qk": eigenvectors("qk"), "vv": eigenvectors("vv", n_images=1)}), "for different images"),
        ((activations(), {"qk": xr.Dataset()}), "expected the Dataset"),
        ((activations(), {"qk": eigenvectors().drop_vars(["residual", "isolated"])}), "lacks residual, isolated"),
    ],
)
def test_impossible_reports_are_refused_in_one_sentence(arguments: tuple, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpectralToolkitError, match=message):
        render_report(arguments[0], arguments[1], tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_pictures_beyond_those_solved_are_no_mistake(tmp_path: Path) -> None:
    assert render_report(activations(3), solved(), tmp_path / "report.html").is_file()


def test_folders_and_wrong_opacity_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpectralToolkitError, match="is a folder"):
        render_report(activations(), solved(), tmp_path)
    with pytest.raises(SpectralToolkitError, match="opacity=3"):
        render_report(activations(), solved(), tmp_path / "a.html", opacity=3)
    assert load_images(pictures())[0].shape == (40, 80, 3)


def test_the_recipe_on_the_page_makes_the_page_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    for place, (height, width) in enumerate(((60, 100), (120, 70))):
        Image.fromarray(pictures(1, height, width)[0]).save(tmp_path / "photos" / f"{place}.png")
    monkeypatch.chdir(tmp_path)
    model = st.load_model("scenes", device="cpu")
    options = {"layers": [0, 3], "n_eigenvectors": 3, "kernel": {"vv": "rbf"}, "seed": 4, "title": "A 'title'"}
    path = st.report(model, "photos", "first.html", device="cpu", progress=False, **options)
    html = path.read_text()
    record = json.loads(Elements(html).scripts[0])
    assert record["eigenvectors"]["vv"]["kernel"] == "rbf"
    assert record["eigenvectors"]["qk"]["kernel"] == "softmax"
    assert record["eigenvectors"]["qk"]["seed"] == 4
    program = unescape(re.search(r'<code id="recipe">(.*?)</code>', html, re.DOTALL)[1])  # pyright: ignore[reportOptionalSubscript]
    exec(compile(program, "recipe", "exec"), {})
    again = (tmp_path / "report.html").read_text()
    assert without_times(Elements(again).scripts[0]) == without_times(Elements(html).scripts[0])
    assert [tag["src"] for tag in Elements(again).named("img")] == [tag["src"] for tag in Elements(html).named("img")]
    assert program in unescape(again).replace(str(tmp_path / "photos"), "photos")


def without_times(record: str) -> dict:
    read = json.loads(record)
    for attrs in read["eigenvectors"].values():
        attrs.pop("seconds")
    return read


def test_report_of_scenes_knows_where_they_come_from(tmp_path: Path) -> None:
    model = st.load_model("scenes", device="cpu")
    scenes = st.scenes.sample(2, seed=5).pixels
    path = st.report(model, scenes, tmp_path / "a.html", kinds="vv", n_eigenvectors=2, device="cpu", progress=False)
    assert "st.load_images(st.scenes.sample(2, seed=5, size=(96, 96)).pixels)" in unescape(path.read_text())
    path = st.report(model, scenes[1:], tmp_path / "b.html", kinds="vv", n_eigenvectors=2, device="cpu", progress=False)
    assert "open_datatree('activations.zarr'" in unescape(path.read_text())


def test_report_wants_an_affinity_and_a_file(tmp_path: Path) -> None:
    model = st.load_model("scenes", device="cpu")
    with pytest.raises(SpectralToolkitError, match=r"kinds=\(\) is empty"):
        st.report(model, pictures(), tmp_path / "a.html", kinds=())
    with pytest.raises(SpectralToolkitError, match="is a folder"):
        st.report(model, pictures(), tmp_path)
    with pytest.raises(SpectralToolkitError, match="path=3 is not a path"):
        st.report(model, pictures(), 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SpectralToolkitError, match="kernel names 'v'"):
        st.report(model, pictures(), tmp_path / "a.html", kinds=("vv",), kernel={"v": "rbf"})
    theirs = tmp_path / "mine.html"
    theirs.write_text("<p>not ours</p>")
    with pytest.raises(SpectralToolkitError, match="is not a page of spectral-toolkit, so it was left alone"):
        st.report(model, pictures(), theirs)
    assert theirs.read_text() == "<p>not ours</p>"


def test_a_list_of_weights_goes_by_the_order_in_which_layers_are_given(tmp_path: Path) -> None:
    model = st.load_model("scenes", device="cpu")
    options: dict[str, Any] = {"kinds": ("vv",), "n_eigenvectors": 2, "device": "cpu", "progress": False}
    for name, layers, weights in (("a.html", [-1, 0], [1, 0.5]), ("b.html", [0, -1], [0.5, 1])):
        path = st.report(model, pictures(), tmp_path / name, layers=layers, weights=weights, **options)
        assert '"weights": "[0.5, 1.0]"' in path.read_text()
    with pytest.raises(SpectralToolkitError, match="weights has 3 entries"):
        st.report(model, pictures(), tmp_path / "c.html", layers=[-1, 0], weights=[1, 2, 3], **options)


def test_an_affinity_that_does_not_exist_is_refused_before_anything_is_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectral_toolkit._explorer.source.capture", lambda *_, **__: pytest.fail("it was captured"))
    pixels = np.zeros((1, 96, 96, 3), np.uint8)
    with pytest.raises(AffinityError, match="kind='qv' is not offered"):
        st.report("scenes", pixels, tmp_path / "a.html", kinds=("vv", "qv"), progress=False)
    with pytest.raises(AffinityError, match="kernel='softmax' works on qk only"):
        st.report("scenes", pixels, tmp_path / "a.html", kinds="vv", kernel="softmax", progress=False)
    assert not list(tmp_path.iterdir())
