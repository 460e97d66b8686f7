"""Edits: what takes the place of queries, keys or values between their computation and the softmax."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .._compute.arguments import choice, flag, number, shown
from .._compute.settings import computing
from .._io.images import Images, load_images
from .._models.model import Model
from ..errors import SpectralToolkitError
from .plan import choose_layers

EDITABLE = ("query", "key", "value")
EXPECTED = "expected st.exchange, st.remove, st.average, st.scale, st.change, or a function of (layer, tensor)"


@dataclass(frozen=True)
class Tokens:
    """One quantity of one layer in one pass.

    Attributes
    ----------
    layer, quantity
        Their names.
    images
        Which of all images are shown.
    place
        The position of the pass in the dimensions of the model's noise samples.
    patches
        ``(image, head, y, x, channel)``, on the layer's own grid.
    special
        Special tokens ``(image, head, special, channel)``; there may be none.
    """

    layer: str
    quantity: str
    images: range
    place: tuple[int, ...]
    patches: Tensor
    special: Tensor


Change = Callable[[Tokens, "Tokens | None"], Tokens]
"""From the tokens as they are, and what was learned from other passes, to those that take their place."""


@dataclass(frozen=True, eq=False)
class Edit:
    """An edit, as `exchange`, `average`, `scale`, `change` and ``st.remove`` make it.

    Attributes
    ----------
    name
        What it does, for the provenance.
    quantities, layers
        What it edits.
    alter
        Does it.
    donors
        Images, activations or a text whose tokens it needs, image by image; None where it needs none.
    needs_mean
        Whether it needs the mean over all images.
    images
        Names of the images for which it was made; None where it is for any.
    """

    name: str
    quantities: tuple[str, ...]
    layers: object
    alter: Change
    donors: object = None
    needs_mean: bool = False
    images: tuple[str, ...] | None = None


def quantities_of(quantity: object) -> tuple[str, ...]:
    """One quantity or several, checked."""
    given = (quantity,) if isinstance(quantity, str) else quantity
    if not isinstance(given, list | tuple) or not given or not all(isinstance(one, str) for one in given):
        raise SpectralToolkitError(f"quantity={shown(quantity)} is not understood: expected any of {_LISTED}.")
    for one in given:
        if one not in EDITABLE:
            raise SpectralToolkitError(f"quantity={one!r} cannot be edited: expected any of {_LISTED}.")
    return tuple(dict.fromkeys(given))


_LISTED = ", ".join(map(repr, EDITABLE))


@computing
def exchange(
    quantity: object, donors: object, layers: object = "all", *, special_tokens: bool = True, mirrored: bool = False
) -> Edit:
    """Let the softmax see those of other images: one donor an image, matched patch by patch.

    Parameters
    ----------
    quantity
        ``"query"``, ``"key"`` or ``"value"``, or several of them.
    donors
        As many images as are edited, as anything that ``load_images`` takes: the unedited model is shown them batch by
        batch. Or their activations, as ``st.capture`` returned them from the same model at the same size. For
        ``st.generate``, a text: the donors are then images generated from it, starting from the same noise.
    layers
        ``"all"``; or a name, a number, a slice, or a list of these.
    special_tokens
        Whether special tokens follow the donor, too.
    mirrored
        Whether a patch gets those of the donor's patch on the other side, left for right. An exchange between equal
        places says nothing of what carries position.

    Returns
    -------
    Edit
        For ``st.intervene`` and ``st.generate``.

    Raises
    ------
    SpectralToolkitError
        If the quantity is none of these.

    Examples
    --------
    >>> exchange("value", np.zeros((1, 32, 32, 3), np.uint8), layers=slice(0, 4)).quantities
    ('value',)
    """
    chosen, too = quantities_of(quantity), flag("special_tokens", special_tokens)
    turned = flag("mirrored", mirrored)
    tree = donors if isinstance(donors, xr.DataTree) and donors.children else None

    def alter(tokens: Tokens, learned: Tokens | None) -> Tokens:
        donor = learned if tree is None else _of_tree(tree, tokens)
        assert donor is not None
        for name in ("patches", "special") if too else ("patches",):
            own, other = getattr(tokens, name), getattr(donor, name)
            if own.shape != other.shape:
                raise SpectralToolkitError(
                    f"The donors' {tokens.quantity} of layer {tokens.layer!r} has {name} of shape "
                    f"{tuple(other.shape)}; expected {tuple(own.shape)}: give donors that were captured with the same "
                    "model, at the same size."
                )
            other = other.flip(3) if turned and name == "patches" else other
            tokens = replace(tokens, **{name: other.to(own)})
        return tokens

    told = f"{', mirrored' if turned else ''}{'' if too else ', without special tokens'}"
    return Edit(f"exchange({_written(chosen)}{told})", chosen, layers, alter, donors)


def _of_tree(donors: xr.DataTree, tokens: Tokens) -> Tokens:
    held = donors[tokens.layer].to_dataset() if tokens.layer in donors.children else xr.Dataset()
    if tokens.quantity not in held:
        raise SpectralToolkitError(
            f"The donors hold no {tokens.quantity} of layer {tokens.layer!r}: capture them with it."
        )
    draws = [dim for dim in ("timestep", "noise") if dim in held[tokens.quantity].dims]
    if len(draws) != len(tokens.place):
        raise SpectralToolkitError(
            f"The donors have the dimensions {tuple(map(str, held[tokens.quantity].dims))} in layer {tokens.layer!r}: "
            "capture them with the same model at the same timesteps."
        )
    where = {"image": list(tokens.images)} | dict(zip(draws, tokens.place, strict=True))
    if any(max(np.atleast_1d(place)) >= held.sizes[dim] for dim, place in where.items()):
        raise SpectralToolkitError(
            f"The donors hold {dict(held[tokens.quantity].sizes)} in layer {tokens.layer!r}, which are fewer than "
            "those that are edited: give one donor an image, at the same timesteps."
        )
    patches, special = (
        torch.as_tensor(held[name].isel(where).values) if name in held else tokens.special[:, :, :0]
        for name in (tokens.quantity, f"special_{tokens.quantity}")
    )
    return replace(tokens, patches=patches, special=special)


@computing
def average(quantity: object, over: str = "patches", layers: object = "all", *, special_tokens: bool = False) -> Edit:
    """Let every patch have the mean: over the patches of its image and head, or over all images at its place.

    Parameters
    ----------
    quantity
        ``"query"``, ``"key"`` or ``"value"``, or several of them.
    over
        ``"patches"`` or ``"images"``. The mean over images is that of the unedited model.
    layers
        ``"all"``; or a name, a number, a slice, or a list of these.
    special_tokens
        Whether special tokens take part, each with its own mean over images; they never take part in a mean over
        patches.

    Returns
    -------
    Edit
        For ``st.intervene``.

    Raises
    ------
    SpectralToolkitError
        If the quantity is none of these, or ``over`` is neither.

    Examples
    --------
    >>> average(["query", "key"]).name
    'average(query, key, over=patches)'
    """
    chosen, too = quantities_of(quantity), flag("special_tokens", special_tokens)
    across = choice("over", over, ("patches", "images"))

    def alter(tokens: Tokens, learned: Tokens | None) -> Tokens:
        own = tokens.patches
        if across == "patches":
            return replace(tokens, patches=own.mean((2, 3), keepdim=True).expand(own.shape))
        assert learned is not None
        special = learned.special.to(own).expand(tokens.special.shape) if too else tokens.special
        return replace(tokens, patches=learned.patches.to(own).expand(own.shape), special=special)

    name = f"average({_written(chosen)}, over={across})"
    return Edit(name, chosen, layers, alter, needs_mean=across == "images")


@computing
def scale(quantity: object, factor: float, layers: object = "all", *, special_tokens: bool = True) -> Edit:
    """Multiply by a number.

    Parameters
    ----------
    quantity
        ``"query"``, ``"key"`` or ``"value"``, or several of them.
    factor
        The number; 0 switches the quantity off.
    layers
        ``"all"``; or a name, a number, a slice, or a list of these.
    special_tokens
        Whether those of special tokens are multiplied, too.

    Returns
    -------
    Edit
        For ``st.intervene`` and ``st.generate``.

    Raises
    ------
    SpectralToolkitError
        If the quantity is none of these, or the factor is not a finite number.

    Examples
    --------
    >>> scale("value", 0.5).name
    'scale(value, 0.5)'
    """
    chosen, too = quantities_of(quantity), flag("special_tokens", special_tokens)
    by = number("factor", factor)

    def alter(tokens: Tokens, learned: Tokens | None) -> Tokens:
        special = tokens.special * by if too else tokens.special
        return replace(tokens, patches=tokens.patches * by, special=special)

    return Edit(f"scale({_written(chosen)}, {by:g})", chosen, layers, alter)


@computing
def change(quantity: object, function: Callable[[str, Tensor], object], layers: object = "all") -> Edit:
    """Let a function of yours say what the softmax sees.

    Parameters
    ----------
    quantity
        ``"query"``, ``"key"`` or ``"value"``, or several of them.
    function
        Is given the name of a layer and a tensor ``(image, head, y, x, channel)`` on the layer's own grid, and returns
        one of the same shape. Special tokens stay as they are.
    layers
        ``"all"``; or a name, a number, a slice, or a list of these.

    Returns
    -------
    Edit
        For ``st.intervene`` and ``st.generate``.

    Raises
    ------
    SpectralToolkitError
        If the quantity is none of these, or the function cannot be called.

    Examples
    --------
    >>> change("key", lambda layer, tensor: tensor.flip(3)).quantities
    ('key',)
    """
    chosen = quantities_of(quantity)
    if not callable(function):
        raise SpectralToolkitError(f"function={shown(function)} cannot be called: expected one of (layer, tensor).")

    def alter(tokens: Tokens, learned: Tokens | None) -> Tokens:
        # A copy, because a function may work in place.
        given = function(tokens.layer, tokens.patches.clone())
        new = torch.as_tensor(given) if isinstance(given, np.ndarray) else given
        if not isinstance(new, Tensor) or new.shape != tokens.patches.shape:
            what = f"shape {tuple(new.shape)}" if isinstance(new, Tensor) else shown(given)
            raise SpectralToolkitError(
                f"The function that edits {tokens.quantity} of layer {tokens.layer!r} gave back {what}; expected a "
                f"tensor of shape {tuple(tokens.patches.shape)}: (image, head, y, x, channel)."
            )
        return replace(tokens, patches=new.to(tokens.patches))

    name = getattr(function, "__name__", type(function).__name__)
    return Edit(f"change({_written(chosen)}, {name})", chosen, layers, alter)


def edits_of(edits: object) -> tuple[Edit, ...]:
    """What a caller gives as edits, checked: one edit or function, or several in the order in which they are made."""
    if edits is None:
        return ()
    given: object = [edits] if isinstance(edits, Edit) or callable(edits) else edits
    if not isinstance(given, list | tuple):
        raise SpectralToolkitError(f"edits={shown(edits)} is not understood: {EXPECTED}, or a list of these.")
    for one in given:
        if not isinstance(one, Edit) and not callable(one):
            raise SpectralToolkitError(f"edits holds {shown(one)}: {EXPECTED}.")
    return tuple(one if isinstance(one, Edit) else change(EDITABLE, one) for one in given)


def by_layer(edits: Sequence[Edit], model: Model) -> dict[tuple[str, str], list[Edit]]:
    """For each layer and quantity that is edited, its edits in the order in which they are made."""
    found: dict[tuple[str, str], list[Edit]] = defaultdict(list)
    for edit in edits:
        for layer in choose_layers(model, edit.layers):
            for quantity in edit.quantities:
                found[layer, quantity].append(edit)
    return found


def check_images(edit: Edit, names: Sequence[str]) -> None:
    """Refuse an edit that was made for other images, or for these in another order."""
    made = edit.images
    if made is not None and (len(made) != len(names) or (set(made) == set(names) and list(made) != list(names))):
        raise SpectralToolkitError(
            f"{edit.name} is of {len(made)} images and {len(names)} are edited, or they are in another order: solve "
            "for the images that are edited."
        )


def donor_images(edit: Edit, n: int, draws: Mapping[str, np.ndarray]) -> Images | None:
    """The donors of an edit that the model has to be shown, one for each of ``n`` images; None where there are none.

    ``draws`` are the timesteps and noise samples of the model, which donors that were captured must share.
    """
    if edit.donors is None:
        return None
    if isinstance(edit.donors, xr.DataTree) and edit.donors.children:
        first = next(iter(edit.donors.children.values())).coords
        for dim, values in draws.items():
            if dim in first and not np.array_equal(first[dim].values, values):
                raise SpectralToolkitError(
                    f"The donors were captured with {dim} {first[dim].values.tolist()} and the images have "
                    f"{values.tolist()}: capture them with the same settings."
                )
        found = edit.donors.sizes.get("image") or next(iter(edit.donors.children.values())).sizes.get("image", 0)
        images = None
    else:
        images = load_images(edit.donors)
        found = len(images)
    if found != n:
        raise SpectralToolkitError(f"The number of donors is {found} and that of images {n}: give one donor an image.")
    return images


def _written(quantities: tuple[str, ...]) -> str:
    return ", ".join(quantities)


class _Cut(TypedDict):
    layer: str
    quantity: str
    images: range
    place: tuple[int, ...]
    n_special: int
    grid: tuple[int, int]


def split(tensor: Tensor, **about: Unpack[_Cut]) -> Tokens:
    """Tokens from a tensor (image, head, token, channel), special ones first."""
    special, patches = tensor[..., : about["n_special"], :], tensor[..., about["n_special"] :, :]
    patches = patches.unflatten(-2, about["grid"])
    return Tokens(about["layer"], about["quantity"], about["images"], about["place"], patches, special)


def joined(tokens: Tokens) -> Tensor:
    """The opposite of `split`."""
    return torch.cat([tokens.special, tokens.patches.flatten(2, 3)], 2)


def edited(tensor: Tensor, edits: Sequence[Edit], learned: Mapping[int, Tensor], **about: Unpack[_Cut]) -> Tensor:
    """What takes the place of ``tensor`` (image, head, token, channel): itself where nothing changes.

    ``learned`` has what edits need from other passes, by their identity; ``about`` are the arguments of `split`.
    """
    tokens = split(tensor, **about)
    for edit in edits:
        known = learned.get(id(edit))
        tokens = edit.alter(tokens, None if known is None else split(known, **about))
    new = joined(tokens)
    if not bool(torch.isfinite(new).all()) and bool(torch.isfinite(tensor).all()):
        raise SpectralToolkitError(
            f"{', '.join(edit.name for edit in edits)} gives NaN or infinity for {tokens.quantity} of layer "
            f"{tokens.layer!r}: an edit must give finite numbers."
        )
    # What an edit leaves as it was stays the very tensor, and the pass the plain one.
    return tensor if torch.equal(new, tensor) else new
