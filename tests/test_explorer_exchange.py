"""The view that runs the model again: what it shows is what the public functions give, and so is its code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_explorer_code import shown_by
from transformers import ViTConfig, ViTModel

import spectral_toolkit as st
from spectral_toolkit._explorer.exchange import EXCHANGE
from spectral_toolkit._views.widget import Explorer
from spectral_toolkit.errors import ActivationsError, SpectralToolkitError


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> Any:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8
    )
    return st.load_model(ViTModel(config).eval(), device="cpu")


@pytest.fixture
def explorer(model: Any, images: np.ndarray, comms: Any) -> Any:
    made = Explorer(model, images, progress=False, synchronous=True, device="cpu")
    yield made
    made.close()


def expected(model: Any, own: np.ndarray, theirs: np.ndarray, quantities: Any, layers: Any, mirrored: bool) -> Any:
    """By loops over patches."""
    edit = st.exchange(quantities, theirs, layers, mirrored=mirrored)
    trees = [st.intervene(model, *given, progress=False) for given in ((own,), (theirs,), (own, edit))]
    plain, donor, edited = (tree["final_token"].to_numpy()[0] for tree in trees)
    found = np.empty(plain.shape[:2])
    for y, x in np.ndindex(found.shape):
        one, other = plain[y, x], donor[y, -1 - x if mirrored else x]
        cosines = [edited[y, x] @ to / np.linalg.norm(edited[y, x]) / np.linalg.norm(to) for to in (other, one)]
        found[y, x] = cosines[0] - cosines[1]
    return found


@pytest.mark.parametrize(("kind", "quantities"), [("vv", "value"), ("qk", ("query", "key"))])
@pytest.mark.parametrize("further", [0, 2])
def test_it_shows_what_the_public_functions_give(
    explorer: Explorer, model: Any, images: np.ndarray, kind: str, quantities: Any, further: int
) -> None:
    explorer.set(
        view="exchange",
        compare=False,
        affinity=kind,
        image=1,
        options={"donor": further, "first_layer": 2, "last_layer": 2},
    )
    donor = (1 + further) % 3
    wanted = expected(model, images[1:2], images[donor : donor + 1], quantities, 1, mirrored=further == 0)
    assert explorer._answer is not None
    after, before = explorer._answer.sides[0].data
    np.testing.assert_allclose(after, wanted, atol=1e-5)
    assert (before <= 0).all()
    assert not np.allclose(after, before)


@pytest.mark.parametrize("given", ["arrays", "files"])
def test_its_code_draws_the_same(
    model: Any, images: np.ndarray, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comms: Any
) -> None:
    from PIL import Image

    for place, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / f"{place}.png")
    source = images if given == "arrays" else str(tmp_path / "*.png")
    explorer = Explorer(model, source, progress=False, synchronous=True, device="cpu")
    explorer.set(view="exchange", compare=False, affinity="vv", options={"donor": 1, "last_layer": 2})
    code = explorer.code()
    assert explorer._answer is not None
    wanted = explorer._answer.sides[0].data[0]
    explorer.activations.to_zarr(tmp_path / "activations.zarr")
    explorer.close()
    if given == "arrays":
        assert "# model, images: what the explorer was given" in code
        code = code.replace("# model, images: what the explorer was given", "model, images = GIVEN")
    else:
        code = code.replace("st.load_model(my_model)", "GIVEN[0]").replace("assert model", "#")
    monkeypatch.setattr("builtins.GIVEN", (model, images), raising=False)
    (view,) = shown_by(code, tmp_path, monkeypatch)
    np.testing.assert_allclose(view.Map.I.dimension_values("value", flat=False), wanted, atol=1e-6)


def test_what_no_edit_changes_is_run_once(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    from spectral_toolkit._explorer import exchange as module

    runs: list[object] = []

    def counted(model: Any, images: Any, edits: Any, **settings: Any) -> Any:
        runs.append(edits)
        return st.intervene(model, images, edits, **settings)

    monkeypatch.setattr(module, "intervene", counted)
    explorer.set(view="exchange", options={"donor": 1})  # of two settings: both plain passes, and an edit of each
    assert [one == () for one in runs] == [True, True, False, False]
    explorer.set(options={"donor": 1, "first_layer": 2})
    assert [one == () for one in runs[4:]] == [False, False]


def test_activations_alone_offer_no_such_view(explorer: Explorer, comms: Any) -> None:
    assert "exchange" in [option[1] for option in explorer._controls.view.options]
    saved = Explorer(explorer.activations, synchronous=True, device="cpu")
    assert "exchange" not in [option[1] for option in saved._controls.view.options]
    with pytest.raises(SpectralToolkitError, match="view='exchange' runs the model again"):
        saved.set(view="exchange")
    saved.close()


def test_it_is_on_no_frozen_page(explorer: Explorer) -> None:
    explorer.set(view="exchange")
    assert EXCHANGE.page is None
    assert "Exchange" not in explorer.to_html().html


def test_trees_that_do_not_belong_together(model: Any, images: np.ndarray) -> None:
    one, two = (st.intervene(model, images[:n], progress=False) for n in (1, 2))
    with pytest.raises(ActivationsError, match=r"edited \(1, 1, 4, 4, 16\), plain \(2, 1, 4, 4, 16\)"):
        st.resemblance(one, two, two)
    with pytest.raises(ActivationsError, match="donors holds no 'final_token'"):
        st.resemblance(one, one, st.capture(model, images, progress=False))
