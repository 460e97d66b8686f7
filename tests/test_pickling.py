"""What users hand to other processes or copy: models, images, graphs and results go along whole, or say why not."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusion_zoo import stable_diffusion
from model_zoo import BY_NAME
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._views.widget import Explorer
from spectral_toolkit.errors import SpectralToolkitError

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
}
PIXELS = st.scenes.sample(3, seed=0).pixels


def captured(model: Any) -> np.ndarray:
    acts = st.capture(model, PIXELS[:1], layers=[0], progress=False)
    return next(iter(acts.children.values())).dataset["value"].values


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", ["scenes", "scenes-diffusion", "beit", "siglip2", "pipeline"])
def test_models(name: str, how: str) -> None:
    if name == "pipeline":
        model = st.load_model(stable_diffusion())
    else:
        model = st.load_model(BY_NAME[name].make() if name in BY_NAME else name, device="cpu")
    model.weights_sha256()
    other = COPIES[how](model)
    assert type(other) is type(model)
    assert (other.module is model.module) == (how == "copy")
    assert other.weights_sha256() == model.weights_sha256()
    np.testing.assert_array_equal(captured(other), captured(model))


def test_the_advice_of_load_model_runs() -> None:
    """It says to give a deep copy of a live object that is to stay as it is."""
    model = st.load_model("scenes", device="cpu")
    st.load_model(copy.deepcopy(model), dtype="float64")
    assert model.dtype == torch.float32


def images(kind: str, folder: Path) -> Any:
    for place in range(3):
        Image.fromarray(PIXELS.values[place]).save(folder / f"{place}.png")
    if kind == "pil":
        return [Image.open(folder / "0.png"), PIXELS.values[1]]
    return {
        "files": str(folder),
        "arrays": PIXELS.values,
        "labelled": PIXELS,
        "mixed": [str(folder / "2.png"), PIXELS[:1], PIXELS.values[1]],
    }[kind]


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("kind", ["files", "arrays", "labelled", "pil", "mixed"])
def test_images(kind: str, how: str, tmp_path: Path) -> None:
    loaded = st.load_images(images(kind, tmp_path))
    for mine in (loaded, loaded[1:]):
        other = COPIES[how](mine)
        assert (other.names, other.sizes, other.sha256) == (mine.names, mine.sizes, mine.sha256)
        for one, two in zip(other, mine, strict=True):
            np.testing.assert_array_equal(one, two)


def test_files_go_along_by_their_path_wherever_the_process_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images("files", tmp_path)
    data = pickle.dumps(st.load_images("*.png"))
    assert len(data) < 2000
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(data).names == ("0.png", "1.png", "2.png")
    (tmp_path / "1.png").unlink()
    with pytest.raises(SpectralToolkitError, match=r"1\.png"):
        pickle.loads(data)


def test_a_data_loader_takes_images_in_workers_that_are_spawned(tmp_path: Path) -> None:
    loaded = st.load_images([str(tmp_path / "0.png"), PIXELS.values[1]] if images("files", tmp_path) else [])
    dataset: Any = loaded
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context="spawn")
    (batch,) = list(loader)
    np.testing.assert_array_equal(batch.numpy(), PIXELS.values[:2])


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("options", [{}, {"scope": "dataset"}, {"scope": "dataset", "kernel": "knn"}], ids=str)
def test_graphs_and_results(how: str, options: dict[str, Any]) -> None:
    acts = st.capture("scenes", PIXELS, layers=[0, 1], progress=False)
    graph = st.affinity(acts, "vv", device="cpu", **options)
    other = COPIES[how](graph)
    first, second = (COPIES[how](st.solve(one, 3)) for one in (graph, other))
    np.testing.assert_array_equal(first["eigenvector"], second["eigenvector"])


def test_an_explorer_says_that_it_cannot(explorer: Explorer) -> None:
    for make in COPIES.values():
        with pytest.raises(SpectralToolkitError, match=re.escape("Explorer(activations, state=state)")):
            make(explorer)
    state = COPIES["pickle"](explorer.state)
    assert state == explorer.state
