"""Python code that makes a result again, written from the settings recorded in the result."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_LINE = 100


def solve_lines(eig: xr.Dataset, name: str, activations: str = "activations") -> list[str]:
    """Lines of code that compute one result from activations and call it ``name``.

    Every setting that differs from its default is spelled out; a setting that is not recorded keeps its default.
    """
    attrs = eig.attrs
    options = json.loads(attrs.get("kernel_options") or "{}")
    settings = {key: attrs.get(key) for key in ("kernel", "heads", "scope")} | options
    graph = call(
        "st.affinity",
        [activations, repr(str(attrs.get("affinity", name)))],
        settings | {"layers": _fewer_layers(eig), "weights": _weights(eig)},
    )
    settings = {key: attrs.get(key) for key in ("method", "tolerance", "seed")}
    solve = call("st.solve", [f"{name}_graph"], {"n_eigenvectors": eig.sizes["component"]} | settings)
    return [f"{name}_graph = {graph}", f"{name} = {solve}"]


def figure_recipe(
    key: str,
    eig: xr.Dataset,
    attrs: Mapping[str, object],
    image: str | None,
    *,
    pictures: str | None,
    loading: Mapping[str, object] | None = None,
    heading: Sequence[str] = (),
) -> str:
    """A program that makes the figures of one result: those of one image, or of all images solved as one problem.

    Parameters
    ----------
    key, eig
        The result and its name.
    attrs
        Attributes of the activations.
    image
        Name of the image; None for all images together.
    pictures
        A Python expression for the images; None where their origin is not known.
    loading
        As in `capture_lines`.
    heading
        Comments at the beginning.
    """
    name = key if key.isidentifier() else "eig"
    lines = [*heading, "import spectral_toolkit as st", ""]
    if pictures is None:
        lines[len(heading) : len(heading)] = ["import xarray as xr", ""]
        lines += ["activations = xr.open_datatree('activations.zarr', engine='zarr').load()", "images = activations"]
    else:
        lines += capture_lines(attrs, pictures, loading)
    lines += ["", *solve_lines(eig, name), ""]
    shown = f"{name}.sel(image={image!r})" if image is not None and "image" in eig["eigenvalue"].dims else name
    lines += [f"print({shown}['eigenvalue'].values, {shown}['eigengap'].values)  # the spectrum"]
    lines += [f"print({shown}[['layer_mass', 'layer_share']].to_dataframe())  # the layers"]
    if image is not None:
        lines += [f"st.overlay(images, {name}, image={image!r})  # the image"]
    return "\n".join(lines) + "\n"


_CLASS = re.compile(r"[A-Z]\w*(Model|Pipeline|For[A-Z]\w+|Backbone)")


def capture_lines(attrs: Mapping[str, object], pictures: str, loading: Mapping[str, object] | None = None) -> list[str]:
    """Lines of code that load the model and the images and capture ``activations``, with the recorded settings.

    ``loading`` holds more keyword arguments of ``st.load_model``; its ``source`` replaces the recorded name.
    """
    more = dict(loading or {})
    source = repr(str(more.pop("source", attrs.get("model", ""))))
    model = call("st.load_model", [source], {"revision": attrs.get("revision") or None, **more})
    lines = [f"model = {model}"]
    if "source" not in (loading or {}) and _CLASS.fullmatch(str(attrs.get("model", ""))):
        # A live object without a name is recorded by its class, which cannot be loaded.
        lines = [f"model = st.load_model(my_model)  # my_model: the {attrs['model']} that was in memory"]
    lines += noise_lines(attrs, "model")
    if digest := attrs.get("weights_sha256"):
        lines.append(f"assert model.weights_sha256() == {str(digest)!r}, 'other weights'")
    lines.append(f"images = st.load_images({pictures})")
    if digest := attrs.get("pictures_sha256"):
        lines.append(f"assert images.sha256 == {str(digest)!r}, 'other images'")
    size = _listed(attrs, "image_size")
    settings = {
        "layers": _listed(attrs, "layers"),
        "quantities": _listed(attrs, "quantities"),
        "size": None if size is None else tuple(size),
        "batch_size": attrs.get("batch_size"),
        "seed": attrs.get("seed"),
    }
    lines.append(f"activations = {call('st.capture', ['model', 'images'], settings)}")
    return lines


def noise_lines(attrs: Mapping[str, object], name: str) -> list[str]:
    """For a denoiser, the line of code that shows it the recorded noise; none for other models."""
    timesteps = _listed(attrs, "timesteps")
    if not timesteps:
        return []
    told = {"n_draws": attrs.get("n_draws"), "prompt": attrs.get("prompt") or None, "seed": attrs.get("noise_seed")}
    return [call(f"{name} = {name}.at", [f"timesteps={timesteps!r}"], told)]


def recipe(
    solved: Mapping[str, xr.Dataset],
    attrs: Mapping[str, object],
    *,
    title: str,
    pictures: str | None = None,
    appearance: Mapping[str, object] | None = None,
) -> str:
    """A program that makes a report again.

    Parameters
    ----------
    solved
        The results of the report, by name of their affinity.
    attrs
        Attributes of the activations.
    title
        Title of the report.
    pictures
        A Python expression for the images; None where their origin is not known: the program then starts from saved
        activations.
    appearance
        More keyword arguments of `render_report`.
    """
    lines = ["import spectral_toolkit as st", ""]
    if pictures is None:
        lines[0:0] = ["import xarray as xr", ""]
        lines += [
            "# The images came from a variable, so this program starts from activations saved with",
            "# activations.to_zarr('activations.zarr').",
            "activations = xr.open_datatree('activations.zarr', engine='zarr').load()",
            "images = activations",
        ]
    else:
        lines += capture_lines(attrs, pictures)
    names = {key: key if key.isidentifier() else f"eig_{place}" for place, key in enumerate(solved)}
    for key, eig in solved.items():
        lines += ["", *solve_lines(eig, names[key])]
    answers = "{" + ", ".join(f"{key!r}: {names[key]}" for key in solved) + "}"
    settings = {"images": _Name("images"), "title": title, **(appearance or {}), "pictures_source": pictures}
    lines += ["", call("st.render_report", ["activations", answers, "'report.html'"], settings)]
    return "\n".join(lines) + "\n"


def _fewer_layers(eig: xr.Dataset) -> list[str] | None:
    """The layers of the result, where these are not all captured layers; separate heads carry other names."""
    captured = _listed(eig.attrs, "activations_layers")
    if captured is None or "layer" not in eig.coords or eig.attrs.get("heads") == "each":
        return None
    own = [str(name) for name in eig.coords["layer"].values]
    return None if own == captured else own


def _weights(eig: xr.Dataset) -> dict[str, float] | None:
    if "layer_weight" not in eig:
        return None
    weights = eig["layer_weight"].values
    if np.all(weights == 1):
        return None
    return {str(name): float(weight) for name, weight in zip(eig.coords["layer"].values, weights, strict=True)}


def _listed(attrs: Mapping[str, object], name: str) -> list[object] | None:
    """A list that an attribute holds as JSON; None where there is none."""
    value = attrs.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return list(value) if isinstance(value, list | tuple | np.ndarray) else None


def spelled(value: object, indent: int = 0) -> str:
    """A value as Python writes it, with one item per line where a list or mapping is longer than a line."""
    text = repr(value)
    if indent + len(text) <= _LINE or not isinstance(value, list | dict):
        return text
    items = [f"{key!r}: {item!r}" for key, item in value.items()] if isinstance(value, dict) else map(repr, value)
    margin = " " * (indent + 4)
    return "\n".join([text[0], *(f"{margin}{item}," for item in items), " " * indent + text[-1]])


class _Name(str):
    """A name in the program, as distinct from a string in it."""

    __repr__ = str.__str__


def call(
    function: str, arguments: Sequence[str], settings: Mapping[str, object], raw: Mapping[str, str] | None = None
) -> str:
    """One call, on as many lines as keep it readable; ``raw`` holds arguments that are names."""
    # The names come from a file that anyone may have written, so anything that is not a name is refused here.
    named = [(key, _plain(value)) for key, value in settings.items() if value is not None and key.isidentifier()]
    named += [(key, _Name(value)) for key, value in (raw or {}).items()]
    line = f"{function}({', '.join([*arguments, *(f'{key}={value!r}' for key, value in named)])})"
    if len(line) <= _LINE:
        return line
    lines = [f"    {', '.join(arguments)},"]
    for key, value in named:
        lines.append(f"    {key}={spelled(value, indent=4)},")
    return "\n".join([f"{function}(", *lines, ")"])


def _plain(value: object) -> object:
    """Python's own numbers: ``np.int64(0)`` would not run without NumPy's name."""
    return value.item() if isinstance(value, np.generic) else value


def picture_expression(images: object) -> str | None:
    """A Python expression for the images, if their origin is known."""
    if isinstance(images, str | os.PathLike):
        return repr(os.fspath(images))
    if isinstance(images, list | tuple) and images and all(isinstance(item, str | os.PathLike) for item in images):
        return spelled([os.fspath(item) for item in images])
    if isinstance(images, xr.DataArray) and _is_whole_sample(images):
        size = (images.sizes["y_px"], images.sizes["x_px"])
        return f"st.scenes.sample({images.sizes['image']}, seed={int(images.attrs['scenes_seed'])}, size={size}).pixels"
    return None


def _is_whole_sample(images: xr.DataArray) -> bool:
    """Whether these are the first scenes of a series, as ``scenes.sample`` gives them."""
    names = [f"scene_{place:04d}" for place in range(images.sizes.get("image", 0))]
    return "scenes_seed" in images.attrs and "image" in images.dims and images["image"].values.tolist() == names
