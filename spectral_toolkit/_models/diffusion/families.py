"""The table of supported denoisers: support, messages, documentation and tests read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..untyped import Settings
from .base import DiffusionModel
from .dit import DiTModel
from .flux import FluxModel
from .pixart import PixArtModel
from .sd3 import SD3Model
from .unets import UNetModel, is_xl


@dataclass(frozen=True)
class DiffusionFamily:
    """One line of the table.

    Attributes
    ----------
    label
        Its usual name.
    tower
        Name of diffusers' class of the denoiser (a subclass counts).
    component
        Its name in a pipeline.
    model
        The class with its special treatment.
    layers
        The captured layers, in words.
    fits
        Whether a denoiser of that class with this configuration belongs to the family; the first line that fits counts.
    """

    label: str
    tower: str
    component: str
    model: type[DiffusionModel]
    layers: str
    fits: Callable[[Settings], bool] = lambda config: True

    def describe(self) -> str:
        """One line for the documentation."""
        return f"{self.label} (`{self.tower}`): {self.layers}"


FAMILIES = (
    DiffusionFamily(
        "Stable Diffusion XL UNet", "UNet2DConditionModel", "unet", UNetModel, "self-attention (`attn1`)", is_xl
    ),
    DiffusionFamily("Stable Diffusion UNet", "UNet2DConditionModel", "unet", UNetModel, "self-attention (`attn1`)"),
    DiffusionFamily("DiT", "DiTTransformer2DModel", "transformer", DiTModel, "self-attention (`attn1`)"),
    DiffusionFamily(
        "PixArt-alpha and -sigma", "PixArtTransformer2DModel", "transformer", PixArtModel, "self-attention (`attn1`)"
    ),
    DiffusionFamily(
        "Stable Diffusion 3 and 3.5",
        "SD3Transformer2DModel",
        "transformer",
        SD3Model,
        "joint attention (`attn`), text as special tokens; self-attention (`attn2`) where there is one",
    ),
    DiffusionFamily(
        "Flux", "FluxTransformer2DModel", "transformer", FluxModel, "joint attention, text as special tokens; rotary"
    ),
)

OLDER_NAMES = {
    "Transformer2DModel": {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}
}
"""The old names, in checkpoints on the hub, of classes that diffusers has renamed since, and how the configuration
distinguishes them: diffusers makes the newer class."""


def supported() -> str:
    """The supported families in one phrase."""
    known = ", ".join(family.label for family in FAMILIES)
    return f"of diffusers, pipelines and denoisers of {known}, and any other denoiser whose tokens are patches"


def find_family(class_names: list[str], config: Settings) -> DiffusionFamily | None:
    """The line for a denoiser whose class and its bases have these names; None where there is none."""
    for given in class_names:
        name = OLDER_NAMES.get(given, {}).get(config.get("norm_type"), given)
        for family in FAMILIES:
            if family.tower == name and family.fits(config):
                return family
    return None
