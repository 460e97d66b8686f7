"""Records what watched attention modules see: the modules of a layer, and the order in which its tokens are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...errors import UnsupportedModelError
from ..model import UNROTATED, Model, Recorder, edit_all
from .watching import Rotary, Seen, watching


@dataclass
class WatchedModel(Model):
    """A model of diffusers whose attention is watched while a capture runs."""

    def attention_of(self, layer: str) -> torch.nn.Module:
        """The attention module of a layer."""
        return self.tower.get_submodule(layer)

    def block_of(self, layer: str) -> torch.nn.Module:
        """The module whose output is the residual stream after the layer."""
        return self.tower.get_submodule(layer.rpartition(".")[0])

    def tokens_of(self, layer: str, seen: Seen) -> Seen:
        """What the softmax saw, with special tokens first and then patches row by row."""
        return seen

    def token_of(self, layer: str, output: Any) -> torch.Tensor:
        """The residual stream (image, token, feature) from a block's output, in the same order."""
        return output[0] if isinstance(output, tuple) else output

    def unrotated(self, part: torch.Tensor, rotary: Rotary | None) -> torch.Tensor:
        """Queries or keys before the rotation by ``rotary``, in the model's own order of tokens."""
        raise UnsupportedModelError(f"{self.name} ({self.family}) has no rotary positions.")

    @property
    def implementation(self) -> str:
        names = {type(getattr(self.attention_of(layer), "processor", None)).__name__ for layer in self.layers}
        return ", ".join(sorted(names))

    @contextmanager
    def recording(self, recorder: Recorder) -> Iterator[None]:
        self._refuse_hooks()
        listeners = {self.attention_of(layer): self._listener(recorder, layer) for layer in recorder.layers}
        with ExitStack() as stack:
            if "token" in recorder.quantities:
                for layer in recorder.layers:
                    handle = self.block_of(layer).register_forward_hook(self._token_hook(recorder, layer))
                    stack.callback(handle.remove)
            stack.enter_context(watching(listeners, self.name))
            yield

    @contextmanager
    def final_tokens(self, keep: Callable[[torch.Tensor], None], size: tuple[int, int]) -> Iterator[None]:
        """The residual stream after the last layer."""
        layer = self.layers[-1]
        hook = self.block_of(layer).register_forward_hook(lambda _block, _args, out: keep(self.token_of(layer, out)))
        try:
            yield
        finally:
            hook.remove()

    def _listener(self, recorder: Recorder, layer: str) -> Callable[[Seen], Seen]:
        def listen(seen: Seen) -> Seen:
            ordered = self.tokens_of(layer, seen)
            parts = {name: getattr(ordered, name) for name in ("query", "key", "value")}
            edited = edit_all(recorder, layer, parts)
            changed = {name: one for name, one in edited.items() if one is not parts[name]}
            ordered = replace(ordered, **changed)
            for quantity in ("query", "key", "value"):
                if quantity in recorder.quantities:
                    recorder.record(layer, quantity, getattr(ordered, quantity))
            if set(UNROTATED) & set(recorder.quantities):
                turned = (self.unrotated(part, seen.rotary) for part in (seen.query, seen.key))
                before = self.tokens_of(layer, replace(seen, **dict(zip(("query", "key"), turned, strict=True))))
                for quantity, part in zip(UNROTATED, (before.query, before.key), strict=True):
                    if quantity in recorder.quantities:
                        recorder.record(layer, quantity, part)
            recorder.describe(layer, ordered.scale, ordered.bias)
            return replace(seen, **{name: self._in_own_order(layer, seen, name, one) for name, one in changed.items()})

        return listen

    def _in_own_order(self, layer: str, seen: Seen, name: str, ordered: torch.Tensor) -> torch.Tensor:
        """One quantity with its tokens in the model's own order again; the opposite of `tokens_of`."""
        own = getattr(seen, name)
        numbers = torch.arange(own.shape[-2], device=own.device)[None, None, :, None]
        places = getattr(self.tokens_of(layer, replace(seen, query=numbers, key=numbers, value=numbers)), name)
        return own.index_copy(-2, places.flatten(), ordered.to(own))

    def _token_hook(self, recorder: Recorder, layer: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: object, output: object) -> None:
            recorder.record(layer, "token", self.token_of(layer, output).detach())

        return hook

    def _refuse_hooks(self) -> None:
        for part in self.parts:
            for module in part.modules():
                registry = getattr(module, "_diffusers_hook", None)
                if hasattr(module, "_hf_hook") or (registry is not None and registry.hooks):
                    raise UnsupportedModelError(
                        f"{self.name} is offloaded, cast layer by layer or cached ({type(part).__name__} has hooks of "
                        "accelerate or diffusers), so its tensors are not where they seem: load it again without them, "
                        "such as with load_model(source, dtype='float16')."
                    )
