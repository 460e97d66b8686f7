"""The scenes: pictures, ground truth, training, and the weights that are bundled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModel

import spectral_toolkit
from spectral_toolkit import scenes
from spectral_toolkit.errors import SpectralToolkitError
from spectral_toolkit.scenes import compose, palette, shapes
from training import backbones, diffusion, objectives, series, shared
from training import scenes as scenes_training

WEIGHTS = Path(spectral_toolkit.__file__).parent / "scenes" / "weights" / "scenes"
TINY = [
    *("--size", "32", "--batch", "3", "--n-scenes", "6", "--width", "16", "--layers", "2", "--heads", "2"),
    *("--registers", "1", "--steps", "4", "--first-phase", "0.5", "--warmup", "1"),
]


@pytest.fixture(scope="module")
def many():
    return scenes.sample(80, seed=5)


# ------------------------------------------------------------------------------------------------------- pictures


def test_a_scene_depends_on_seed_and_number_only():
    few, more, other = scenes.sample(2, seed=3), scenes.sample(4, seed=3), scenes.sample(2, seed=4)
    assert few.identical(scenes.sample(2, seed=3))
    assert few.identical(more.isel(image=slice(2)))
    assert not np.array_equal(few.pixels, other.pixels)
    assert not np.array_equal(few.pixels[0], few.pixels[1])


@pytest.mark.parametrize(
    ("size", "shape"), [(96, (96, 96)), ((64, 120), (64, 120)), (8, (8, 8)), ((160, 32), (160, 32))]
)
def test_shapes_and_types(size, shape):
    drawn = scenes.sample(3, seed=0, size=size)
    assert drawn.pixels.dims == ("image", "y_px", "x_px", "rgb")
    assert drawn.pixels.shape == (3, *shape, 3)
    assert drawn.pixels.dtype == np.uint8
    for name in ("label", "instance"):
        assert drawn[name].dims == ("image", "y_px", "x_px")
        assert drawn[name].shape == (3, *shape)
        assert np.issubdtype(drawn[name].dtype, np.integer)
    assert list(drawn.image.values) == ["scene_0000", "scene_0001", "scene_0002"]
    assert drawn.attrs["categories"] == list(compose.CATEGORIES)


def test_scenes_do_not_depend_on_the_last_digit(monkeypatch):
    """Processors differ in it, and a diffusion model's noise is drawn from the bytes of a picture."""
    drawn = scenes.sample(40, seed=20261124)
    generator = np.random.default_rng(0)

    def inexact(function):
        def called(*arguments):
            exact = np.asarray(function(*arguments))
            aside = generator.choice([-np.inf, np.inf], exact.shape).astype(exact.dtype)
            return np.where(generator.random(exact.shape) < 0.7, np.nextafter(exact, aside), exact)

        return called

    for name in ("sin", "cos", "exp", "hypot", "arctan2", "sqrt"):
        monkeypatch.setattr(np, name, inexact(getattr(np, name)))
    assert drawn.identical(scenes.sample(40, seed=20261124))


def test_no_scenes_is_an_empty_dataset():
    assert scenes.sample(0, seed=0).pixels.shape == (0, 96, 96, 3)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"n": -1, "seed": 0}, "n=-1"),
        ({"n": 1.5, "seed": 0}, "n=1.5"),
        ({"n": 1, "seed": -2}, "seed=-2"),
        ({"n": 1, "seed": 0, "size": 90}, "size=90"),
        ({"n": 1, "seed": 0, "size": (96, 0)}, "size"),
        ({"n": 1, "seed": 0, "size": (96, 96, 3)}, "size"),
        ({"n": 1, "seed": 0, "size": "96"}, "size='96'"),
    ],
)
def test_bad_requests_are_refused_with_their_value(arguments, word):
    with pytest.raises(SpectralToolkitError, match=word):
        scenes.sample(**arguments)


def test_every_category_occurs_and_none_dominates_the_things(many):
    share = np.bincount(many.label.values.ravel(), minlength=len(compose.CATEGORIES)) / many.label.size
    assert (share > 0.01).all()
    assert 0.2 < share[compose.FIRST_THING :].sum() < 0.6


def test_an_instance_has_one_label(many):
    for label, instance in zip(many.label.values, many.instance.values, strict=True):
        for number in np.unique(instance):
            assert len(np.unique(label[instance == number])) == 1
        assert (label[instance == 0] == compose.SKY).all()
        assert (label[instance == 1] == compose.GROUND).all()
        assert (label[instance > 1] >= compose.FIRST_THING).all()


def test_some_scenes_lack_the_sky_and_some_the_ground(many):
    present = np.stack([(many.label == category).any(("y_px", "x_px")) for category in (0, 1)])
    assert (~present).any(1).all()
    assert present.all(0).any()


def test_floating_things_are_seen_in_the_sky_and_on_the_ground(many):
    names = [name for name in shapes.THINGS if name not in shapes.STANDING]
    rows = {name: np.nonzero(many.label.values == compose.CATEGORIES.index(name))[1] for name in names}
    for name, row in rows.items():
        for third in (row < 32, row >= 64):
            assert third.mean() > 0.08, name


def test_majority_against_counting_by_hand():
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 4, (12, 9)).astype(np.int16)
    answer = compose._majority(fine, 4)
    for row in range(4):
        for column in range(3):
            block = fine[3 * row : 3 * row + 3, 3 * column : 3 * column + 3].ravel()
            counts = [(block == number).sum() for number in range(4)]
            assert counts[answer[row, column]] == max(counts)
            assert answer[row, column] == int(np.argmax(counts))


def test_colour_does_not_tell_what_a_thing_is(many):
    """Nearest mean colour, learnt on half of the things, guesses the other half hardly better than chance."""
    colours, kinds = [], []
    for pixels, label, instance in zip(many.pixels.values, many.label.values, many.instance.values, strict=True):
        for number in np.unique(instance[instance > 1]):
            here = instance == number
            if here.sum() >= 60:
                pixel = pixels[here].astype(float)
                colours.append(np.concatenate([pixel.mean(0) - pixel.mean(), pixel.mean(0)]))
                kinds.append(label[here][0])
    colours, kinds = np.array(colours), np.array(kinds)
    half = len(kinds) // 2
    centres = np.array([colours[:half][kinds[:half] == kind].mean(0) for kind in range(2, len(compose.CATEGORIES))])
    guess = 2 + np.square(colours[half:, None] - centres).sum(-1).argmin(1)
    assert (guess == kinds[half:]).mean() < 0.3  # of eight kinds; chance is about 0.125, brightness tells a little


def test_oklch_of_known_colours():
    np.testing.assert_allclose(palette.oklch(1.0, 0.0, 0.0), [1, 1, 1], atol=2e-3)
    np.testing.assert_allclose(palette.oklch(0.0, 0.0, 0.0), [0, 0, 0], atol=2e-3)
    np.testing.assert_allclose(palette.oklch(0.62796, 0.25768, 29.234 / 360), [1, 0, 0], atol=3e-3)


@pytest.mark.parametrize("name", shapes.THINGS)
def test_every_shape_has_an_outline_inside_its_radius(name):
    v, u = np.meshgrid(np.linspace(-1.6, 1.6, 161), np.linspace(-1.6, 1.6, 161), indexing="ij")
    distance, mix, light = shapes.THINGS[name](u, v, 20.0, np.random.default_rng(0))
    inside = distance < 0
    assert 0.1 < inside.sum() * 0.02**2 < 3.2
    assert not inside[(np.abs(u) > 1.1) | (np.abs(v) > 1.1)].any()
    assert (mix[inside] >= 0).all()
    assert (mix[inside] <= 1).all()
    assert mix[inside].std() > 0.05
    assert np.isfinite(light).all()


# ------------------------------------------------------------------------------------------------------- training


def test_caption_counts():
    instance = np.zeros((12, 12), int)
    instance[6:] = 1
    instance[:5, :5], instance[:5, 6:11], instance[8, :3] = 2, 3, 4
    label = np.array([0, 1, 5, 5, 7])[instance]
    counts = series.count_categories(label, instance)
    assert counts.tolist() == [0, 1, 0, 0, 0, 2, 0, 0, 0, 0]  # 22 pixels of sky and 3 of a house are too few


def test_patch_pixels_are_the_patches_normalised():
    luma = torch.rand(2, 16, 24)
    answer = objectives.patch_pixels(luma, 8)
    patch = luma[1, 8:16, 16:24].flatten()
    expected = (patch - patch.mean()) / (patch.var() + 1e-4).sqrt()
    torch.testing.assert_close(answer[1, 5], expected)


def test_patch_gradients_against_the_slow_sum():
    luma = torch.rand(1, 16, 16)
    answer = objectives.patch_gradients(luma, 8)[0]
    grey = np.pad(luma[0].double().numpy(), 1, mode="edge")
    cells = np.zeros((4, 4, 9))
    for y in range(16):
        for x in range(16):
            across, down = grey[y + 1, x + 2] - grey[y + 1, x], grey[y + 2, x + 1] - grey[y, x + 1]
            position = np.arctan2(down, across) / np.pi % 1 * 9
            low = int(np.floor(position))
            for step, share in ((low, 1 - (position - low)), (low + 1, position - low)):
                cells[y // 4, x // 4, step % 9] += share * np.hypot(across, down)
    for number, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        block = cells[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        expected = block.transpose(2, 0, 1).ravel() / np.sqrt((block**2).sum() + objectives.FLAT**2)
        np.testing.assert_allclose(answer[number].numpy(), expected, atol=1e-4)


def test_patch_gradients_ignore_colour_and_offset():
    picture = torch.rand(1, 3, 16, 16) * 0.5
    swapped = picture.flip(1)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    torch.testing.assert_close(objectives.grey(picture), (picture * weights).sum(1))
    torch.testing.assert_close(
        objectives.patch_gradients(objectives.grey(picture), 8),
        objectives.patch_gradients(objectives.grey(picture) + 0.25, 8),
        atol=1e-4,
        rtol=1e-4,
    )
    assert swapped.shape == picture.shape


def test_caption_loss_on_patches_against_the_slow_sum():
    torch.manual_seed(0)
    logits = torch.randn(2, 30, 4)
    captions = torch.tensor([[1, 0, 2, 0], [1, 1, 0, 1]])
    expected_any, expected_each = [], []
    for picture in range(2):
        probability = logits[picture].softmax(-1)
        named = captions[picture] > 0
        expected_any += [-probability[patch, named].sum().log() for patch in range(30)]
        for category in torch.nonzero(named).flatten().tolist():
            per_thing = 8 if category < 2 else 4
            k = max(1, round(int(captions[picture, category]) * per_thing * 0.5))
            expected_each.append(-probability[:, category].topk(k).values.mean().log())
    expected = torch.stack(expected_any).mean() + 0.5 * torch.stack(expected_each).mean()
    torch.testing.assert_close(objectives.caption_loss_patches(logits, captions, 0.5), expected)


def test_shifting_patches_moves_their_mean_colour_only():
    pictures = torch.rand(4, 3, 16, 24)
    moved = scenes_training.disturb(pictures, np.random.default_rng(0), shift=0.7, grain=0.0) - pictures
    patches = moved.reshape(4, 3, 2, 8, 3, 8).permute(0, 1, 2, 4, 3, 5).flatten(4)
    assert patches.std(-1).max() < 1e-6
    assert len(torch.unique(patches[0, :, :, :, 0].round(decimals=4))) == 18
    assert moved.abs().max() <= 0.7
    noisy = scenes_training.disturb(pictures, np.random.default_rng(0), shift=0.0, grain=0.25) - pictures
    assert 0 < noisy.std() <= 0.26


def test_augmenting_flips_and_keeps_the_range():
    pictures = np.random.default_rng(1).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    values = scenes_training.augment(pictures, np.random.default_rng(0))
    assert values.shape == (6, 3, 16, 16)
    assert values.dtype == torch.float32
    assert values.min() >= 0
    assert values.max() <= 1
    again = scenes_training.augment(pictures, np.random.default_rng(0))
    assert torch.equal(values, again)


@pytest.mark.parametrize("positions", backbones.BUILDERS)
def test_encoding_all_patches_is_the_model_itself(positions):
    run = shared.start(
        scenes_training.TASK, scenes_training.Recipe(size=32, width=16, layers=2, heads=2, positions=positions)
    )
    pixels = torch.randn(2, 3, 32, 32)
    run.model.eval()
    every = torch.arange(16).expand(2, -1)
    tokens = backbones.encode(run.model, pixels, every, every[:, :0])
    torch.testing.assert_close(tokens, run.model(pixels).last_hidden_state)
    # Order does not matter, and a masked patch is the model's own masked patch.
    shuffled = torch.randperm(16).expand(2, -1)
    tokens = backbones.encode(run.model, pixels, shuffled[:, :9], shuffled[:, 9:])
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[:, shuffled[0, 9:]] = True
    expected = run.model(pixels, bool_masked_pos=mask).last_hidden_state
    torch.testing.assert_close(tokens[:, 5:], expected[:, 5:][:, shuffled[0]])


def test_models_built_from_their_configuration_have_no_holes():
    twins = [shared.start(scenes_training.TASK, scenes_training.Recipe(positions=name)) for name in backbones.BUILDERS]
    for run in twins:
        for name, value in run.model.named_parameters():
            assert name.endswith("bias") or value.abs().sum() > 0, name
            assert "register" not in name or len(value.flatten(0, -2).unique(dim=0)) == 4
    run, absolute = twins
    places = absolute.model.embeddings.position_embeddings
    assert len(places[0].unique(dim=0)) == 145
    # Twins: as many numbers, but for the table of places.
    sizes = [sum(value.numel() for value in one.model.parameters()) for one in twins]
    assert sizes[1] - sizes[0] == places.numel()
    cosine, sine = run.model.rope_embeddings(torch.zeros(1, 3, 96, 96))
    assert len(torch.unique(torch.cat([cosine, sine], -1).round(decimals=4), dim=0)) == 144


def test_training_resumes_to_the_weights_of_an_uninterrupted_run(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    shared.main(scenes_training.TASK, ["--out", str(whole), *TINY])
    shared.main(scenes_training.TASK, ["--out", str(parts), *TINY, "--stop-at-step", "1"])
    shared.main(scenes_training.TASK, ["--out", str(parts), "--resume", "--stop-at-step", "3"])
    shared.main(scenes_training.TASK, ["--out", str(parts), "--resume"])
    first = shared.load_checkpoint(scenes_training.TASK, whole / shared.CHECKPOINT)
    second = shared.load_checkpoint(scenes_training.TASK, parts / shared.CHECKPOINT)
    assert first.step == second.step == 4
    for name, value in first.parameters().items():
        assert torch.equal(value, second.parameters()[name]), name
    start = shared.start(scenes_training.TASK, first.recipe).parameters()
    moved = [name for name, value in first.parameters().items() if not torch.equal(value, start[name])]
    for head in ("heads.pixels.weight", "heads.patches_last.weight", "heads.picture.weight"):
        assert head in moved

    record = json.loads((parts / "export" / "training.json").read_text())
    assert record["steps"] == 4
    assert len(record["commands"]) == 3
    assert str(tmp_path) not in json.dumps(record)
    model = AutoModel.from_pretrained(parts / "export")
    assert model.config.model_type == "dinov3_vit"
    for name, value in first.model.named_parameters():
        assert torch.equal(value, model.get_parameter(name)), name


def test_the_schedule_warms_up_holds_and_falls():
    recipe = scenes_training.Recipe()
    rates = [
        shared.learning_rate(scenes_training.TASK, recipe, step, step / recipe.steps) for step in range(recipe.steps)
    ]
    assert rates[0] < 0.01 * recipe.learning_rate
    assert rates[recipe.warmup] == rates[int(0.2 * recipe.steps)] == recipe.learning_rate
    assert rates[-1] < 0.01 * recipe.learning_rate
    assert (np.diff(rates[recipe.warmup :]) <= 0).all()


@pytest.mark.parametrize(
    ("task", "recipe"),
    [
        (scenes_training.TASK, scenes_training.Recipe(positions="rotary")),
        (scenes_training.TASK, scenes_training.Recipe(positions="absolute")),
        (diffusion.TASK, diffusion.Recipe()),
    ],
    ids=["rotary", "absolute", "diffusion"],
)
def test_one_weight_decay_for_all_matrices_and_none_for_the_rest(task, recipe):
    """Nothing in a recipe may press queries, keys or values towards what the models are meant to test."""
    run = shared.start(task, recipe)
    found = {id(value): group for group in run.optimizer.param_groups for value in group["params"]}
    assert len(found) == len(run.parameters())
    for name, value in run.parameters().items():
        is_matrix = value.ndim > 1 and name.endswith(".weight")
        assert found[id(value)]["weight_decay"] == (recipe.weight_decay if is_matrix else 0), name
        assert found[id(value)]["lr"] == recipe.learning_rate, name


def test_what_is_asked_names_no_quantity_and_no_layer():
    recipe = scenes_training.Recipe(size=32, width=16, layers=3, heads=2, batch=2)
    run = shared.start(scenes_training.TASK, recipe)
    pictures, captions = series.render_series(0, 0, 2, 32)
    assert set(scenes_training.losses(run, pictures, captions, np.random.default_rng(0))) == {"pixels"}
    run.progress = 0.9
    terms = scenes_training.losses(run, pictures, captions, np.random.default_rng(0))
    assert set(terms) == {"pixels", "gradients", "caption_picture", "caption_patches"}


# -------------------------------------------------------------------------------------------------- bundled weights


def test_the_bundled_weights_load_and_are_small():
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 8e6
    model = AutoModel.from_pretrained(WEIGHTS).eval()
    drawn = scenes.sample(2, seed=11)
    processor = AutoImageProcessor.from_pretrained(WEIGHTS)
    pixels = processor(images=list(drawn.pixels.values), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (2, 3, 96, 96)
    expected = (drawn.pixels.values.transpose(0, 3, 1, 2) / 255 - scenes_training.MEAN) / scenes_training.STD
    np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-5)
    with torch.no_grad():
        tokens = model(pixels).last_hidden_state
    assert torch.isfinite(tokens).all()
    assert tokens.shape == (2, 1 + model.config.num_register_tokens + 144, model.config.hidden_size)
    record = json.loads((WEIGHTS / "training.json").read_text())
    assert record["parameters"] == sum(value.numel() for value in model.parameters())
    assert record["commands"]
    assert record["recipe"]["seed"]
    assert record["versions"]["torch"]
