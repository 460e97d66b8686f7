"""The table of supported denoisers: support, messages, documentation and tests read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .base import DiffusionModel
from .unets import UNetModel, is_xl


@dataclass(frozen=True)
class DiffusionFamily:
    """One line of the table.

    Attributes
    ----------
    label
        What people call it.
    tower
        Name of diffusers' class of the denoiser (a subclass counts).
    component
        What a pipeline calls it.
    model
        The class that knows its quirks.
    layers
        What is captured, in words.
    fits
        Whether a denoiser of that class with this configuration is of the family; the first line that fits counts.
    """

    label: str
    tower: str
    component: str
    model: type[DiffusionModel]
    layers: str
    fits: Callable[[Any], bool] = lambda config: True

    def describe(self) -> str:
        """One line for the documentation."""
        return f"{self.label} (`{self.tower}`): {self.layers}"


FAMILIES = (
    DiffusionFamily(
        "Stable Diffusion XL UNet", "UNet2DConditionModel", "unet", UNetModel, "self-attention (`attn1`)", is_xl
    ),
    DiffusionFamily("Stable Diffusion UNet", "UNet2DConditionModel", "unet", UNetModel, "self-attention (`attn1`)"),
)


def supported() -> str:
    """The supported families in one phrase."""
    return f"of diffusers, pipelines and denoisers of {', '.join(family.label for family in FAMILIES)}"


def find_family(class_names: list[str], config: Any) -> DiffusionFamily | None:
    """The line for a denoiser whose class and its bases have these names; None where there is none."""
    for name in class_names:
        for family in FAMILIES:
            if family.tower == name and family.fits(config):
                return family
    return None
