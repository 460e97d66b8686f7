"""One table of tiny denoisers of diffusers, one line per class or variant: `denoisers.json`. No download."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tiny:
    """A tiny denoiser: its class (and variant), channels of its latents (0: it sees pixels), layers and settings."""

    name: str
    channels: int
    layers: int
    settings: dict[str, Any] = field(repr=False)


REFUSED = {
    "PriorTransformer": "one vector that describes an image",
    "UVit2DModel": "numbers from a code book",
    "UNet1DModel": "moments of a sound",
    "StableAudioDiTModel": "moments of a sound",
    "RFD4ProteinaTransformer": "residues of a protein",
    "TransformerTemporalModel": "from frame to frame",
    "MultiControlNetModel": "load one of them",
    "ControlNetXSAdapter": "UNetControlNetXSModel that holds it",
    "VQModel": "encodes images and removes no noise",
}
"""Classes without patches, and what the refusal says."""


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(one) for name, one in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


_ROWS = json.loads(Path(__file__).with_name("denoisers.json").read_text())
TINY = tuple(Tiny(name, channels, layers, _tuples(settings)) for name, channels, layers, settings in _ROWS)
