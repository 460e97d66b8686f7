"""Python that makes an answer again, written from what the answer says of itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr


def solve_lines(eig: xr.Dataset, name: str, activations: str = "acts") -> list[str]:
    """Lines that compute one answer from activations and call it ``name``.

    Every setting that differs from its default is spelled out; what an answer does not say of itself is left to the
    default.
    """
    attrs = eig.attrs
    options = json.loads(attrs.get("kernel_options") or "{}")
    weights = _weights(eig)
    affinity = _call(
        "st.affinity",
        [activations, repr(str(attrs["affinity"]))],
        {
            "kernel": attrs.get("kernel"),
            "heads": attrs.get("heads"),
            "scope": attrs.get("scope"),
            **options,
            **({} if weights is None else {"weights": weights}),
        },
    )
    solve = _call(
        "st.solve",
        [f"{name}_graph"],
        {"n_eigenvectors": eig.sizes["component"]} | {key: attrs.get(key) for key in ("method", "tolerance", "seed")},
    )
    return [f"{name}_graph = {affinity}", f"{name} = {solve}"]


def capture_lines(
    attrs: Mapping[str, Any], layers: Sequence[str], pictures: str, capture: Mapping[str, Any]
) -> list[str]:
    """Lines that load the model and the pictures and capture ``acts``."""
    lines = [f"model = st.load_model({str(attrs.get('model', ''))!r}{_revision(attrs)})"]
    if digest := attrs.get("weights_sha256"):
        lines.append(f"assert model.weights_sha256() == {str(digest)!r}, 'other weights'")
    lines.append(f"images = st.load_images({pictures})")
    settings = {"layers": list(layers), "seed": attrs.get("seed"), **capture}
    lines.append(f"acts = {_call('st.capture', ['model', 'images'], settings)}")
    return lines


def recipe(
    solved: Mapping[str, xr.Dataset],
    attrs: Mapping[str, Any],
    layers: Sequence[str],
    *,
    title: str,
    pictures: str | None = None,
    pictures_sha256: str | None = None,
    capture: Mapping[str, Any] | None = None,
) -> str:
    """A program that makes a report again.

    Parameters
    ----------
    solved
        The answers of the report, by name of their affinity.
    attrs
        Attributes of the activations.
    layers
        Names of the captured layers.
    title
        Title of the report.
    pictures
        A Python expression for the pictures; None where nobody knows where they came from: the program then starts
        from saved activations.
    pictures_sha256
        Hash of the pictures, checked by the program.
    capture
        More keyword arguments of the capture.
    """
    lines = ["import spectral_toolkit as st", "from spectral_toolkit.views.report import render_report", ""]
    if pictures is None:
        lines[0:0] = ["import xarray as xr", ""]
        lines += [
            "# The pictures came from a variable, so this starts from activations that were saved with",
            "# acts.to_zarr('activations.zarr').",
            "acts = xr.open_datatree('activations.zarr', engine='zarr').load()",
            "images = acts",
        ]
    else:
        lines += capture_lines(attrs, layers, pictures, capture or {})
        if pictures_sha256:
            place = next(place for place, line in enumerate(lines) if line.startswith("images ="))
            lines.insert(place + 1, f"assert images.sha256 == {pictures_sha256!r}, 'other pictures'")
    names = {key: key if key.isidentifier() else f"eig_{place}" for place, key in enumerate(solved)}
    for key, eig in solved.items():
        lines += ["", *solve_lines(eig, names[key])]
    answers = "{" + ", ".join(f"{key!r}: {names[key]}" for key in solved) + "}"
    lines += ["", f"render_report(acts, {answers}, 'report.html', images=images, title={title!r})"]
    return "\n".join(lines) + "\n"


def _weights(eig: xr.Dataset) -> dict[str, float] | None:
    if "layer_weight" not in eig:
        return None
    weights = eig["layer_weight"].values
    if np.all(weights == 1):
        return None
    return {str(name): float(weight) for name, weight in zip(eig.coords["layer"].values, weights, strict=True)}


def _revision(attrs: Mapping[str, Any]) -> str:
    return f", revision={str(attrs['revision'])!r}" if attrs.get("revision") else ""


def _call(function: str, arguments: Sequence[str], settings: Mapping[str, Any]) -> str:
    # Names come from a file that anyone may have written; only names may stand where the program has names.
    named = [f"{key}={_plain(value)!r}" for key, value in settings.items() if value is not None and key.isidentifier()]
    line = f"{function}({', '.join([*arguments, *named])})"
    if len(line) <= 100:
        return line
    return f"{function}(\n    {', '.join(arguments)},\n" + "".join(f"    {setting},\n" for setting in named) + ")"


def _plain(value: Any) -> Any:
    """Python's own numbers: ``np.int64(0)`` would not run without NumPy's name."""
    return value.item() if isinstance(value, np.generic) else value
