"""A model that draws random numbers in its forward pass: what is drawn for an image is that image's own."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import ViTConfig, ViTModel

import spectral_toolkit as st


def by_torch(x: torch.Tensor) -> torch.Tensor:
    return x + torch.rand(x.shape)


def by_numpy(x: torch.Tensor) -> torch.Tensor:
    return x + torch.from_numpy(np.random.normal(size=x.shape)).to(x)


def by_python(x: torch.Tensor) -> torch.Tensor:
    return x * torch.tensor([random.random() for _ in range(len(x))])[:, None, None]


def by_dropout(x: torch.Tensor) -> torch.Tensor:
    """As Monte Carlo dropout does: dropped in evaluation mode too."""
    return torch.nn.functional.dropout(x, 0.3, training=True)


def by_masking(x: torch.Tensor) -> torch.Tensor:
    """As masked autoencoders and stochastic depth do: one draw for each patch, and one for each image."""
    noise = torch.rand(x.shape[:2])
    return torch.where((noise < noise.median(dim=1, keepdim=True).values)[..., None], 0.0, x) * torch.rand(len(x), 1, 1)


DRAWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    draw.__name__: draw for draw in (by_torch, by_numpy, by_python, by_dropout, by_masking)
}


def model_with(draw: Callable[[torch.Tensor], torch.Tensor]) -> ViTModel:
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=8
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViTModel(config)
    embed = model.embeddings.forward
    # Not a hook: a capture with hooks of the user's own is not resumed.
    model.embeddings.forward = lambda *args, **kwargs: draw(embed(*args, **kwargs))
    return model


def pictures(n: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (n, 32, 32, 3)).astype(np.uint8)


def values(acts: xr.DataTree) -> np.ndarray:
    return acts.children["layers.1"].dataset["value"].values


def captured(model: Any, images: Any, **settings: Any) -> np.ndarray:
    return values(st.capture(model, images, progress=False, **settings))


@pytest.fixture(params=DRAWS)
def model(request: pytest.FixtureRequest) -> ViTModel:
    return model_with(DRAWS[request.param])


def test_what_an_image_gets_depends_on_nothing_but_the_image_and_the_seed(model: ViTModel) -> None:
    images = pictures()
    expected = captured(model, images, batch_size=1)
    for batch_size in (2, 3, 8):
        np.testing.assert_array_equal(captured(model, images, batch_size=batch_size), expected)
    np.testing.assert_array_equal(captured(model, images[3:], batch_size=2), expected[3:])
    np.testing.assert_array_equal(captured(model, images[::-1], batch_size=2), expected[::-1])
    torch.manual_seed(77)
    np.random.seed(77)
    random.seed(77)
    np.testing.assert_array_equal(captured(model, images, batch_size=3), expected)
    assert not np.allclose(captured(model, images, seed=1), expected)


def test_every_image_gets_draws_of_its_own() -> None:
    """Of images that differ in one pixel nothing but the draws differs to speak of."""
    alike = np.repeat(pictures(1), 4, axis=0)
    alike[np.arange(4), 0, 0, 0] = [0, 1, 2, 3]
    drawn, plain = captured(model_with(by_torch), alike), captured(model_with(lambda x: x), alike)
    between = np.abs(np.diff(drawn, axis=0)).mean((1, 2, 3, 4, 5) if drawn.ndim == 6 else tuple(range(1, drawn.ndim)))
    assert (between > 10 * np.abs(np.diff(plain, axis=0)).max()).all()


def test_an_interrupted_capture_goes_on_with_the_same_draws(model: ViTModel, tmp_path) -> None:
    images, calls, embed = pictures(), [], model.embeddings.forward

    def interrupted(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:  # in the second batch
            raise KeyboardInterrupt
        return embed(*args, **kwargs)

    model.embeddings.forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        captured(model, images, batch_size=2, store=tmp_path / "acts.zarr")
    resumed = captured(model, images, batch_size=2, store=tmp_path / "acts.zarr")
    np.testing.assert_array_equal(resumed, captured(model, images))


def test_generators_are_left_as_they_were(model: ViTModel) -> None:
    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), np.random.get_state()[1:], random.getstate()]  # pyright: ignore

    before = states()
    captured(model, pictures(2))
    assert str(states()) == str(before)


def test_images_are_shown_one_by_one_only_to_models_that_draw() -> None:
    shown: list[int] = []
    for draw, expected in ((lambda x: x, [2, 2, 1]), (by_dropout, [2, 1, 1, 1, 1, 1])):
        model = model_with(draw)
        model.register_forward_pre_hook(
            lambda module, args, kwargs: shown.append(len(kwargs["pixel_values"])), with_kwargs=True
        )
        shown.clear()
        captured(model, pictures(5), batch_size=2)
        assert shown == expected


def test_no_number_out_of_range_names_another_image() -> None:
    """The image that is named is the one whose values they are, also where images are shown one by one."""

    def spoil(x: torch.Tensor) -> torch.Tensor:
        spoiled = (x[:, 1:2, :1] - reference).abs().amax() < 1e-6 if len(x) == 1 else False
        return by_torch(torch.full_like(x, torch.nan) if spoiled else x)

    images, seen = pictures(4), []
    probe = model_with(lambda x: (seen.append(x[:, 1:2, :1].clone()), x)[1])
    captured(probe, images)
    reference = seen[0][2:3]
    with pytest.raises(st.errors.ActivationsError, match="in image 'image_2'"):
        captured(model_with(spoil), images, batch_size=4)
