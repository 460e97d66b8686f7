"""Denoisers whose tokens are no patches of an image, and why: by the name of the class."""

from __future__ import annotations

from ...errors import UnsupportedModelError

_SOUND = "its tokens are moments of a sound, which have no place in an image"
_REASONS = {
    **dict.fromkeys(
        (
            *("AceStepTransformer1DModel", "AudioLDM2UNet2DConditionModel", "LongCatAudioDiTTransformer"),
            *("MiniMaxMusic3RVQDepthDecoder", "MiniMaxMusic3Transformer1DModel", "StableAudioDiTModel"),
            *("StableAudio3DiTModel", "T5FilmDecoder", "UNet1DModel"),
        ),
        _SOUND,
    ),
    "RFD4ProteinaTransformer": "its tokens are residues of a protein, which have no place in an image",
    "PriorTransformer": "it denoises one vector that describes an image, and has no token for a patch; load the "
    "decoder that draws the image from that vector",
    "UVit2DModel": "it takes numbers from a code book in place of latents, and masks them in place of adding noise, so "
    "that it has no timestep of a scheduler",
    "TransformerTemporalModel": "it attends from frame to frame of a video at one place each, and never from patch to "
    "patch; load the whole UNet that it belongs to",
    "MotionAdapter": "it is a part that is added to a UNet; load the UNetMotionModel that holds it",
    "ControlNetXSAdapter": "it is a part that is added to a UNet; load the UNetControlNetXSModel that holds it",
    **dict.fromkeys(
        (
            *("FluxMultiControlNetModel", "HunyuanDiT2DMultiControlNetModel", "QwenImageMultiControlNetModel"),
            *("SD3MultiControlNetModel", "MultiControlNetModel", "MultiControlNetUnionModel"),
        ),
        "it is several ControlNets in one; load one of them, as in load_model(controlnet.nets[0], vae=vae, "
        "scheduler=scheduler)",
    ),
}


def refuse_others(tower: object, label: str) -> None:
    """Raise `UnsupportedModelError` if a denoiser has no tokens that are patches."""
    refuse_class(type(tower).__name__, label)


def refuse_class(name: str, label: str) -> None:
    """The same for the name of its class."""
    if name in _REASONS:
        raise UnsupportedModelError(f"{label} ({name}) cannot be captured: {_REASONS[name]}.")
    if name.startswith(("Autoencoder", "AsymmetricAutoencoder", "VQModel", "ConsistencyDecoder")):
        from .families import supported

        raise UnsupportedModelError(
            f"{name} is not a supported model, as it encodes images and removes no noise: load its denoiser, and give "
            f"this one as vae=... Queries, keys and values can be captured, {supported()}."
        )
