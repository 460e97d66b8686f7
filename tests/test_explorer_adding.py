"""Images that are added to an explorer: captured alone, and as if they had been there from the beginning."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explorer_fixtures import capture_of
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._capture import capture
from spectral_toolkit._explorer import adding
from spectral_toolkit._explorer.source import open_source
from spectral_toolkit.errors import SpectralToolkitError

SCENES = st.scenes.sample(4, seed=0)


@pytest.fixture
def explorer() -> Iterator[Any]:
    made = st.Explorer("scenes", SCENES.pixels[:2], progress=False, batch_size=1, device="cpu")
    yield made
    made.close()


def dropped(*pixels: np.ndarray, name: str = "photo.png") -> dict[str, Any]:
    """What the page says when files are dropped."""
    files = []
    for one in pixels:
        stream = io.BytesIO()
        Image.fromarray(one).save(stream, "PNG")
        files.append({"name": name, "content": "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()})
    return {"images": files}


def test_it_is_as_if_they_had_been_there_from_the_beginning(explorer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(model: Any, images: Any, **settings: Any) -> Any:
        seen.append(len(images))
        return capture(model, images, **settings)

    monkeypatch.setattr(adding, "capture", counted)
    explorer.set(component=3, affinity="vv")
    explorer.add_images(SCENES.pixels[2:])
    assert seen == [2], "what was captured is not captured again"
    whole = open_source("scenes", SCENES.pixels, progress=False, batch_size=1, seed=0).activations
    assert explorer.activations.identical(whole)
    assert (explorer.state.image, explorer.state.component, explorer.state.affinity) == (2, 3, "vv")
    alone = st.solve(st.affinity(whole.isel(image=[2]), "vv"), n_eigenvectors=10)
    np.testing.assert_allclose(abs(explorer.eigenvectors.eigenvector), abs(alone.eigenvector), atol=1e-9)


def test_undo_goes_back_beyond_it(explorer: Any) -> None:
    explorer.set(component=4)
    explorer.add_images(SCENES.pixels[2:3])
    explorer.undo()
    assert (explorer.state.image, explorer.state.component) == (0, 4)
    explorer.undo()
    assert explorer.state.component == 1
    explorer.redo()
    explorer.redo()
    assert explorer.state.image == 2


def test_files_that_are_dropped_keep_their_names_and_their_pixels(explorer: Any) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    explorer._controls._heard(dropped(photo, photo, name="../../my cat.png"))
    assert explorer.activations["image"].values.tolist()[2:] == ["0/my cat.png", "1/my cat.png"]
    assert np.array_equal(explorer._session.pictures[2], photo)
    assert "Added" in explorer._done.value
    folder = Path(explorer._dropped.name)
    assert [file.name for file in folder.rglob("*.png")] == ["my cat.png"] * 2, "nothing outside a folder of their own"
    assert str(folder) not in explorer.code(), "the files go with the explorer"
    explorer.close()
    assert not folder.exists()


@pytest.mark.parametrize("name", ["..", "", "/", "x" * 300 + ".png", "a\0b.png", "Фото ☃.png", "CON.", "C:\\me\\p.png"])
def test_any_name_makes_a_file(explorer: Any, name: str) -> None:
    explorer._controls._heard(dropped(np.zeros((16, 16, 3), np.uint8), name=name))
    assert "Added" in explorer._done.value
    (file,) = (one for one in Path(explorer._dropped.name).rglob("*") if one.is_file())
    assert len(file.name.encode()) <= 240


def test_files_that_come_while_others_are_captured_are_added_too(
    explorer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    photo = np.zeros((16, 16, 3), np.uint8)
    monkeypatch.setattr(explorer._adder, "ask", asked.append)
    explorer._controls._heard(dropped(photo, name="first.png"))
    explorer._controls._heard(dropped(photo, name="second.png"))
    explorer._added(None, asked[-1](), None)
    assert explorer._session.facts.images[2:] == ("first.png", "second.png")
    explorer._controls._heard(dropped(photo, name="third.png"))
    assert explorer._session.facts.images[2:] == ("first.png", "second.png", "third.png")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"images": [{"name": "bad.png", "content": "data:image/png;base64,AAAA"}]}, "bad.png"),
        ({"images": [{"name": "bad.png", "content": "data:image/png;base64,A*"}]}, "did not arrive whole"),
        ({"images": [{"name": "bad.png"}]}, "did not arrive whole"),
        ({"too_large": 9 * 2**20}, "9 MB"),
    ],
)
def test_what_cannot_be_added_is_said_and_nothing_changes(explorer: Any, said: dict[str, Any], words: str) -> None:
    before = explorer.state
    explorer._controls._heard(said)
    assert words in explorer._done.value
    assert "spectral-toolkit-images" not in explorer._done.value
    assert explorer.state == before
    assert len(explorer._session.facts.images) == 2


def test_explorers_that_cannot_take_images_say_why() -> None:
    for explorer, words in (
        (st.Explorer(capture_of()), "no model"),
        (st.Explorer("scenes", SCENES.pixels[:1], labels=SCENES.label[:1], progress=False), "label map"),
        (st.Explorer(["scenes", "scenes"], SCENES.pixels[:1], progress=False), "two captures"),
    ):
        with pytest.raises(SpectralToolkitError, match=words):
            explorer.add_images(SCENES.pixels[1:2])
        explorer.close()
