"""Turns an image into numbers for a model: resized without cropping, scaled and normalised as in its training.

The settings are read from the model's own ``preprocessor_config.json`` or live processor. The processor classes
themselves are not used: several need torchvision, which does not work with the CPU build of torch, and all of them crop
or pad, so that what the model saw would no longer match the image.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import cast

import numpy as np
import torch
from PIL import Image

from ..errors import SpectralToolkitError
from .untyped import untyped

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
MAX_SIDE = 65_536
_KNOWN = (
    "image_mean",
    "image_std",
    "do_normalize",
    "rescale_factor",
    "do_rescale",
    "resample",
    "size",
    "crop_size",
    "do_center_crop",
)

_WITHOUT_MEANING = ("do_resize", "do_convert_rgb", "do_pad", "data_format", "input_data_format")
"""Settings of transformers without a meaning here: images are always RGB and always resized, and never padded."""
_FROM_FILE = ("image_processor_type", "feature_extractor_type", "processor_class")
"""Every file of settings that comes with a model contains one of these."""


@dataclass(frozen=True)
class Processing:
    """A model's own image settings.

    Attributes
    ----------
    mean, std
        Per channel, on the scale after ``rescale_factor``.
    rescale_factor
        The factor of the bytes 0..255, usually 1/255.
    resample
        Name of the PIL filter used for resizing: ``"bilinear"``, ``"bicubic"``, ...
    size
        Pixels (height, width) that the processor would produce, or None where it depends on the image.
    source
        The origin of the settings, for the provenance.
    frames
        Steps of time that a model of clips sees. What it is shown is a strip of film, one step below the other; an
        image is shown as a still clip.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: str = "bicubic"
    rescale_factor: float = 1 / 255
    size: tuple[int, int] | None = None
    source: str = "made from the model's configuration"
    frames: int = 1

    @classmethod
    def from_settings(cls, settings: Mapping[str, object], defaults: Processing, source: str) -> Processing:
        """Read the settings of a transformers image processor; missing settings come from ``defaults``."""
        mean = _per_channel("image_mean", settings.get("image_mean"), defaults.mean)
        std = _per_channel("image_std", settings.get("image_std"), defaults.std)
        if not settings.get("do_normalize", True):
            mean, std = (0.0,) * 3, (1.0,) * 3
        factor = _factor(settings.get("rescale_factor"), defaults.rescale_factor)
        return replace(
            defaults,
            mean=mean,
            std=std,
            rescale_factor=factor if settings.get("do_rescale", True) else 1.0,
            resample=_filter_name(settings.get("resample"), defaults.resample),
            size=_fixed_size(settings),
            source=source,
        )

    def to_json(self) -> str:
        """The settings as one line of JSON; frames only where there are several, as stores of images never had them."""
        settings = asdict(self)
        if self.frames == 1:
            del settings["frames"]
        return json.dumps(settings, sort_keys=True)

    def resize(self, picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Resize a uint8 image (height, width, 3) to ``size`` (height, width) without cropping.

        With several frames, an image of another size becomes each of them.
        """
        if picture.shape[:2] == size:
            return picture
        if self.frames > 1:
            return np.tile(
                replace(self, frames=1).resize(picture, (size[0] // self.frames, size[1])), (self.frames, 1, 1)
            )
        image = Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling[self.resample.upper()])
        return np.array(image)

    def normalise(self, pixels: np.ndarray, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Bytes (image, height, width, 3) to normalised values (image, 3, height, width)."""
        # Bytes are reordered while they are small, and one product and one difference do the rest in place: (bytes *
        # factor - mean) / std.
        values = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).to(device).to(torch.float32)
        mean, std = np.array(self.mean), np.array(self.std)
        for channel, (slope, offset) in enumerate(zip(self.rescale_factor / std, mean / std, strict=True)):
            values[:, channel].mul_(float(slope)).sub_(float(offset))
        return values.to(dtype)

    def shown(self, values: torch.Tensor) -> torch.Tensor:
        """The opposite of `normalise`: values (image, 3, height, width) as colours from 0 to 1."""
        mean, std = (torch.tensor(one, device=values.device).view(-1, 1, 1) for one in (self.mean, self.std))
        return ((values.to(torch.float32) * std + mean) / (255 * self.rescale_factor)).clamp(0, 1)


def settings_of(processor: object) -> Mapping[str, object]:
    """The settings of a live processor (an image processor, or a processor that holds one), or a dictionary of them."""
    inner = getattr(processor, "image_processor", processor)
    settings = inner if isinstance(inner, Mapping) else untyped(inner).to_dict() if hasattr(inner, "to_dict") else {}
    if inner is processor and isinstance(inner, Mapping) and not {*_FROM_FILE} & {*inner}:
        # A dictionary written by hand; those that come with models contain many settings that are ignored.
        if misspelt := [name for name in inner if name not in (*_KNOWN, *_WITHOUT_MEANING)]:
            close = difflib.get_close_matches(str(misspelt[0]), _KNOWN, n=1)
            raise SpectralToolkitError(
                f"processor has a setting {misspelt[0]!r}, which means nothing here"
                f"{f' (did you mean {close[0]!r}?)' if close else ''}: use {', '.join(_KNOWN)}."
            )
        if inner.get("size") is not None and not inner.get("do_center_crop") and _fixed_size(inner) is None:
            raise _bad("size", inner["size"], "expected one number, or {'height': ..., 'width': ...}")
    if not any(name in settings for name in _KNOWN):
        raise SpectralToolkitError(
            f"processor={processor!r} is not an image processor: pass a transformers processor, a dictionary with "
            f"some of its settings ({', '.join(_KNOWN)}), or None to have one made from the model's configuration."
        )
    return settings


def _per_channel(name: str, value: object, default: tuple[float, ...]) -> tuple[float, ...]:
    if value is None:
        return default
    try:
        values = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise _bad(name, value, "expected one number, or three") from error
    if values.ndim == 0:
        values = np.full(3, values)
    if values.shape != (3,):
        raise SpectralToolkitError(
            f"The processor normalises {values.size} channels; expected 3: images are read as RGB."
        )
    if not np.isfinite(values).all() or (name == "image_std" and (values <= 0).any()):
        raise _bad(name, value, "expected finite numbers, and those of image_std above 0")
    return tuple(values.tolist())


def _factor(value: object, default: float) -> float:
    try:
        factor = default if value is None else float(cast("float", value))
    except (TypeError, ValueError, OverflowError) as error:
        raise _bad("rescale_factor", value, "expected a number, usually 1/255") from error
    if not 0 < factor < float("inf"):
        raise _bad("rescale_factor", value, "expected a finite number above 0, usually 1/255")
    return factor


def _filter_name(value: object, default: str) -> str:
    if value is None:
        return default
    # Numbers are PIL's; names are PIL's or torchvision's, whose enumeration has them as values.
    name = str(getattr(value, "value", value)).lower()
    for known in Image.Resampling:
        if name in (known.name.lower(), str(known.value)):
            return known.name.lower()
    raise _bad("resample", value, f"expected one of {', '.join(known.name.lower() for known in Image.Resampling)}")


def _fixed_size(settings: Mapping[str, object]) -> tuple[int, int] | None:
    """The size that the processor always produces, if there is one."""
    size = settings.get("crop_size") if settings.get("do_center_crop") else settings.get("size")
    if isinstance(size, int):
        sides = [size, size]
    elif isinstance(size, Mapping) and "height" in size and "width" in size:
        sides = [size["height"], size["width"]]
    elif size is None or isinstance(size, Mapping | list | tuple):
        return None
    else:
        raise _bad("size", size, "expected one number, or {'height': ..., 'width': ...}")
    if sides == [None, None]:
        return None
    if not all(isinstance(side, int) and not isinstance(side, bool) and 0 < side <= MAX_SIDE for side in sides):
        raise _bad("size", size, f"expected whole numbers of pixels from 1 to {MAX_SIDE}")
    return (sides[0], sides[1])


def _bad(name: str, value: object, expected: str) -> SpectralToolkitError:
    return SpectralToolkitError(f"The processor's {name}={value!r} cannot be used: {expected}.")
