"""A model whose calls of attention were seen, and of which it was proven where patches stand among their tokens.

Layers, shapes and recording follow from the proof alone; a subclass says how images enter (`_prober`).
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import SpectralToolkitError, UnsupportedModelError
from . import unrotated
from .arranging import arranged, by_image, places_of, put_back
from .block_outputs import prove_outputs
from .entries import Told
from .model import UNROTATED, LayerShape, Model, Recorder, Windows, as_written, device_of, evaluating, prefix_of
from .passes import Enough, Prober, as_tokens, first_tensor
from .probing import QUANTITIES, Layer, Layout, NotProvenError, Outputs, assume, prove
from .rehearsing import rehearsed, rehearsing
from .stand_in import is_empty, stand_in
from .unrotated import Operations, Origin
from .watching import Call, watching
from .watching.products import Factors

_CONTAINERS = (torch.nn.ModuleList, torch.nn.Sequential, torch.nn.ModuleDict)


@dataclass
class ProvenModel(Model):
    """A model whose attention was found by watching it.

    Attributes
    ----------
    own
        Size (height, width) of images by default.
    blocks
        For each layer, the module whose output is its residual stream.
    modules
        For each layer, the name of the module that calls attention.
    left_out
        Modules whose attention depends on the image and is not captured, with the reason.
    told
        What the caller said of the model.
    """

    own: tuple[int, int] = (224, 224)
    blocks: dict[str, torch.nn.Module] = field(default_factory=dict, repr=False)
    modules: dict[str, str] = field(default_factory=dict, repr=False)
    left_out: dict[str, str] = field(default_factory=dict)
    told: Told = field(default_factory=Told)
    _layouts: dict[tuple[int, int], Layout] = field(default_factory=dict, repr=False)
    _started: list[int] = field(default_factory=list, repr=False)
    _origins: dict[str, dict[str, Origin]] | None = field(default=None, repr=False)
    """For each module, where its unrotated queries and keys come from; empty where not all are rotated."""
    _stand_in: torch.nn.Module | None = field(default=None, repr=False)
    """What is proven in place of a tower that has no weights yet."""

    def settle(self) -> None:
        """Prove the layout at the model's own size, and name its layers."""
        layout = self.layout(self.own)
        names = self._block_names(list(layout.layers))
        called = self._names(list(layout.layers))
        prefix = prefix_of(self.module, self.tower)
        self.modules = {as_written(prefix + called[module]): module for module in layout.layers}
        self.blocks = {layer: self.tower.get_submodule(names[module]) for layer, module in self.modules.items()}
        self.layers = tuple(self.modules)
        self.left_out = {as_written(prefix + module): reason for module, reason in layout.left_out.items()}
        self._prove_outputs(self.own, layout, names)
        if any(module not in layout.outputs for module in layout.layers):
            self.quantities = tuple(one for one in self.quantities if one != "token")
        longest = max((layer.maps["query"].special for layer in layout.layers.values()), key=len)
        self.special_tokens = self._labels(len(longest))

    def _labels(self, n: int) -> tuple[str, ...]:
        given = self.told.special_tokens
        if given is not None and len(given) != n:
            raise SpectralToolkitError(
                f"special_tokens={list(given)!r} names {len(given)} tokens, but {n} of those that attention sees are "
                "not patches: give as many names."
            )
        return self._usual_labels(n) if given is None else tuple(map(str, given))

    def _block_names(self, modules: list[str]) -> dict[str, str]:
        """For each module that calls attention, the part whose output is the residual stream after it."""
        return _layer_names(self.tower, modules)

    def _names(self, modules: list[str]) -> dict[str, str]:
        """The name of the layer of each module that calls attention."""
        return self._block_names(modules)

    def _usual_labels(self, n: int) -> tuple[str, ...]:
        return _labels(self.tower, n)

    @property
    def own_size(self) -> tuple[int, int]:
        return self.own

    @property
    def grids(self) -> list[tuple[int, int]]:
        """The grid of each layer's queries, for images of the model's own size."""
        return [layer.maps["query"].grid for layer in self.layout(self.own).layers.values()]

    @property
    def patch_size(self) -> tuple[int, int]:
        rows, columns = max(self.grids, key=math.prod)
        return (max(1, self.own[0] // rows), max(1, self.own[1] // columns))

    @property
    def provenance(self) -> dict[str, str | int | float]:
        left_out = {"left_out": "; ".join(self.left_out)} if self.left_out else {}
        return {**super().provenance, **left_out}

    def blocks_in(self, tower: torch.nn.Module) -> dict[str, torch.nn.Module]:
        """The blocks of the layers, in another tower of the same make."""
        return {layer: tower.get_submodule(name_of(self.tower, block)) for layer, block in self.blocks.items()}

    def has(self, quantity: str) -> bool:
        # Rotations cost a pass to find, so they are looked for when somebody asks for them.
        return bool(self._unrotated) if quantity in UNROTATED else super().has(quantity)

    @property
    def _unrotated(self) -> dict[str, dict[str, Origin]]:
        if self._origins is None:
            found = self._find_origins()
            self._origins = found if all(map(found.get, self.layout(self.own).layers)) else {}
        return self._origins

    def _find_origins(self) -> dict[str, dict[str, Origin]]:
        """Where the queries and keys of layers are rotated, found in one pass that ends at the first that are not."""
        found: dict[str, dict[str, Origin]] = {}
        layout, tower, operations = self.layout(self.own), self._proven, Operations()

        def listen(call: Call) -> None:
            if call.module in layout.layers and call.module not in found:
                found[call.module] = unrotated.find(operations, call)
                if not found[call.module]:
                    raise Enough

        prober = self._prober(self.own)
        with (
            suppress(Enough),
            evaluating((tower,), 0, device_of(tower)),
            watching(tower, listen),
            operations.following(tower, list(layout.layers)),
        ):
            prober.forward(prober.base[None])
        return found

    @abstractmethod
    def _prober(self, size: tuple[int, int], tower: torch.nn.Module | None = None) -> Prober:
        """Passes over images of ``size``, by another ``tower`` than the model's own where one is given."""

    def layout(self, size: tuple[int, int]) -> Layout:
        """What is proven for images of ``size`` (height, width); raises `NotProvenError`."""
        tower = self._proven
        if size not in self._layouts:
            with evaluating((tower,), 0, device_of(tower)):
                self._layouts[size] = self._prove(size)
        return self._layouts[size]

    @property
    def _proven(self) -> torch.nn.Module:
        """What the proof runs: the tower, or one like it as long as it has no weights."""
        if not is_empty(self.tower):
            if self._stand_in is not None:  # its buffers may have held other numbers than those that have come
                self._stand_in = None
                self._layouts.clear()
            return self.tower
        if self._stand_in is None:
            self._stand_in = stand_in(self.tower)
        return self._stand_in

    def _prove(self, size: tuple[int, int]) -> Layout:
        if self.told.grid is not None:
            grid = self.told.grid if size == self.own else _scaled(self.told.grid, size, self.own)
            return assume(self._prober(size), grid, len(self.told.special_tokens or ()))
        found, reason = None, None
        try:
            found = prove(self._prober(size))
            if set(found.left_out) <= found.channels:  # attention between channels will not turn out to be over patches
                return found
        except NotProvenError as error:
            reason = error
        # A change to one patch may drown in the rounding of deep convolutions, or in units that are off: look again, at
        # a copy through which it comes.
        other = stand_in(self.tower, torch.float32)
        try:
            with evaluating((other,), 0, device_of(other)):
                again = prove(self._prober(size, other))
        except Exception:  # the copy may not run, or shows no more: then what was seen of the module itself counts
            again = None
        if again is not None and (found is None or len(again.layers) > len(found.layers)):
            return again
        if found is None:
            assert reason is not None
            raise reason
        return found

    def _prove_outputs(self, size: tuple[int, int], layout: Layout, names: dict[str, str]) -> None:
        called = {module: names[module] for module in layout.layers}
        tower = self._proven
        with evaluating((tower,), 0, device_of(tower)):
            prove_outputs(self._prober(size), layout, called)

    def _layout(self, size: tuple[int, int]) -> Layout:
        layout = self.layout(size)
        if set(layout.layers) != set(self.modules.values()):
            raise NotProvenError("other layers see patches there than at its own size")
        if not layout.outputs and "token" in self.quantities:
            names = {module: name_of(self.tower, self.blocks[layer]) for layer, module in self.modules.items()}
            self._prove_outputs(size, layout, names)
        return layout

    def special_tokens_of(self, layer: str, quantity: str, size: tuple[int, int] | None = None) -> tuple[str, ...]:
        layout = self._layout(size or self.own)
        module = self.modules[layer]
        if quantity == "token":
            n = len(layout.outputs[module].map.special)
        else:
            n = len(layout.layers[module].maps[unrotated.QUANTITIES.get(quantity, quantity)].special)
        return self.special_tokens if n == len(self.special_tokens) else self._usual_labels(n)

    def layer_shape(self, layer: str, size: tuple[int, int]) -> LayerShape:
        layout, module = self._layout(size), self.modules[layer]
        found = layout.layers[module]
        queries, keys = found.maps["query"], found.maps["key"]
        output = layout.outputs.get(module)
        return LayerShape(
            grid=queries.grid,
            heads=found.heads,
            channels=found.channels,
            value_channels=found.value_channels,
            features=output.features if output else 0,
            biased=module in layout.biased,
            key_grid=None if keys.grid == queries.grid else keys.grid,
            windows=_windows(found),
            biased_by_image=layout.biased.get(module, False),
            linear=module in layout.linear,
        )

    def expect(self, n: int) -> None:
        if n != 1 and not self._layout(self.own).together:
            raise UnsupportedModelError(
                f"{self.name} was shown {n} images at once, and only of one it is known which token is which: generate "
                "one image, with guidance=1."
            )
        self._started.append(n)

    def _rehearsed(self, size: tuple[int, int]) -> dict[str, list[str]]:
        """Modules that are run beforehand where the attention of layers is edited: see `rehearsed`."""
        prober = self._prober(size)
        return rehearsed(prober.root, lambda: prober.forward(prober.base[None]), self._layout(size).layers)

    @contextmanager
    def final_tokens(self, keep: Callable[[Tensor], None], size: tuple[int, int]) -> Iterator[None]:
        """The residual stream after the last layer, where it is known."""
        layer = self.layers[-1]
        with ExitStack() as stack:
            if "token" in self.quantities:
                hook = _token_hook(keep, self._layout(size).outputs[self.modules[layer]])
                stack.callback(self.blocks[layer].register_forward_hook(hook).remove)
            yield

    def final_grid(self, size: tuple[int, int]) -> tuple[int, int]:
        return self._layout(size).outputs[self.modules[self.layers[-1]]].map.grid

    @contextmanager
    def recording(self, recorder: Recorder) -> Iterator[None]:
        layers = {self.modules[layer]: layer for layer in recorder.layers}
        waiting: dict[str, list[tuple[Call, dict[str, Tensor]]]] = defaultdict(list)
        size = getattr(recorder, "size", self.own)
        layout = self._layout(size)
        before = any(quantity in recorder.quantities for quantity in UNROTATED)
        origins = self._unrotated if before else {}
        kept = {name: frozenset(one.operation for one in found.values()) for name, found in origins.items()}
        operations = Operations(kept)

        def is_edited(module: str) -> bool:
            return module in layers and bool(recorder.edited(layers[module]))

        def edit(module: str, calls: list[Call]) -> Factors:
            layer, found = layers[module], layout.layers[module]
            if len(calls) != len(found.calls):
                raise UnsupportedModelError(
                    f"Layer {layer!r} of {self.name} cannot be edited: its attention was computed {len(calls)} times "
                    f"where it had been seen {len(found.calls)} times, so it depends on something that is kept "
                    "between calls; leave it out of the edits."
                )
            new: list[dict[str, Tensor]] = [{} for _ in calls]
            for quantity in recorder.edited(layer):
                own = [getattr(call, quantity) for call in calls]
                whole = arranged(own, found, quantity, self._started[-1])
                if (other := recorder.edit(layer, quantity, whole)) is not whole:
                    for held, one in zip(new, put_back(other, own, found, quantity, self._started[-1]), strict=True):
                        held[quantity] = one
            factors: Factors = {}
            for call, held in zip(calls, new, strict=True):
                for place, one in (call.factors(held) if held else {}).items():
                    factors.setdefault(place, {}).update(one)
            return factors

        def listen(call: Call) -> None:
            layer = layers.get(call.module)
            if layer is None:
                return
            if len(self._started) != 1:  # a new pass
                del self._started[:-1]
                waiting.clear()
            calls = waiting[call.module]
            calls.append((call, unrotated.taken(operations, call, origins[call.module]) if before else {}))
            found = layout.layers[call.module]
            if len(calls) % len(found.calls) == 0:
                _record(recorder, layer, found, calls[-len(found.calls) :], self._started[-1])
                waiting[call.module] = []

        with ExitStack() as stack:
            groups = self._rehearsed(size) if any(map(is_edited, layers)) else {}
            if groups and before:
                raise UnsupportedModelError(
                    f"Queries and keys of {self.name} before their rotation cannot be recorded while it is edited, as "
                    "they are found by those after it: capture them without edits."
                )
            watch = stack.enter_context(watching(self.tower, listen))
            if groups:
                stack.enter_context(rehearsing(self.tower, watch, groups, is_edited, edit, self.device))
            if "token" in recorder.quantities:
                for layer in recorder.layers:

                    def keep(tokens: Tensor, layer: str = layer) -> None:
                        if not watch.rehearsing:
                            recorder.record(layer, "token", tokens)

                    hook = _token_hook(keep, layout.outputs[self.modules[layer]])
                    stack.callback(self.blocks[layer].register_forward_hook(hook).remove)
            if before:
                stack.enter_context(operations.following(self.tower, list(layers)))
            yield


def _record(
    recorder: Recorder, layer: str, found: Layer, seen: Sequence[tuple[Call, dict[str, Tensor]]], n: int
) -> None:
    calls = [call for call, _ in seen]
    for quantity in QUANTITIES:
        if quantity in recorder.quantities:
            recorder.record(layer, quantity, arranged([getattr(call, quantity) for call in calls], found, quantity, n))
    for quantity, rotated in unrotated.QUANTITIES.items():
        if quantity in recorder.quantities:
            recorder.record(layer, quantity, arranged([before[quantity] for _, before in seen], found, rotated, n))
    bias = None
    if any(call.bias is not None for call in calls):
        bias = _arranged_bias(calls, found, n)
    recorder.describe(layer, calls[0].scale, bias)


def _arranged_bias(calls: Sequence[Call], layer: Layer, n: int) -> Tensor | None:
    """The bias as (image, head, query, key), or (image, head, window, query place, key place)."""
    parts = []
    for call, part in zip(calls, layer.parts["query"], strict=True):
        front = call.query.shape[:-2]
        bias = call.query.new_zeros(()) if call.bias is None else call.bias
        parts.append(by_image(bias.expand(*front, call.query.shape[-2], call.key.shape[-2]), part, n))
    if layer.maps["query"].n_windows == 1 and len(parts) == 1:
        number = int(_window_rows(layer)[0])  # there may be others, in which no patch is
        rows, columns = (
            torch.as_tensor(places_of(layer.maps[one]) - number * layer.parts[one][0].n_tokens, device=parts[0].device)
            for one in ("query", "key")
        )
        return parts[0][:, :, number][:, :, rows][..., columns]
    rows, columns = (max(part.shape[axis] for part in parts) for axis in (-2, -1))
    padded = [torch.nn.functional.pad(one, (0, columns - one.shape[-1], 0, rows - one.shape[-2])) for one in parts]
    every = torch.cat(padded, 2)
    windows = _windows(layer)
    return (
        every
        if windows is None or every.shape[2] == windows.count
        else every[:, :, torch.as_tensor(_window_rows(layer))]
    )


def _starts(layer: Layer, quantity: str) -> np.ndarray:
    """Where the tokens of each window start, over all calls, and where the last ends."""
    lengths = [part.n_tokens for part in layer.parts[quantity] for _ in range(part.windows)]
    return np.concatenate([[0], np.cumsum(lengths)])


def _window_rows(layer: Layer) -> np.ndarray:
    """Which windows hold a patch, of all that the calls have."""
    return np.unique(np.searchsorted(_starts(layer, "query"), layer.maps["query"].order, side="right") - 1)


def _windows(layer: Layer) -> Windows | None:
    found, keys = layer.maps["query"], layer.maps["key"]
    if found.n_windows == 1:
        return None

    def places(at: np.ndarray, quantity: str) -> np.ndarray:
        starts = _starts(layer, quantity)
        return at - starts[np.searchsorted(starts, at, side="right") - 1]

    own = keys.grid != found.grid
    return Windows(
        window=found.window.reshape(found.grid),
        place=places(found.order, "query").reshape(found.grid),
        special_window=keys.special_window,
        special_place=places(keys.special, "key"),
        count=found.n_windows,
        length=int(np.diff(_starts(layer, "query")).max()),
        key_length=int(np.diff(_starts(layer, "key")).max()),
        key_window=keys.window.reshape(keys.grid) if own else None,
        key_place=places(keys.order, "key").reshape(keys.grid) if own else None,
    )


def _token_hook(keep: Callable[[Tensor], None], output: Outputs) -> Callable[..., None]:
    places = torch.as_tensor(places_of(output.map))

    def hook(module: torch.nn.Module, args: object, given: object) -> None:
        tensor = first_tensor(given)
        assert tensor is not None
        tokens = as_tokens(tensor, output.axes)
        keep(tokens[:, places.to(tokens.device)])

    return hook


def _scaled(grid: tuple[int, int], size: tuple[int, int], own: tuple[int, int]) -> tuple[int, int]:
    """The grid at another size, with patches of the same size."""
    return (grid[0] * size[0] // own[0], grid[1] * size[1] // own[1])


# --- names -----------------------------------------------------------------------------------------------------------


def name_of(root: torch.nn.Module, part: torch.nn.Module) -> str:
    return next(name for name, one in root.named_modules() if one is part)


def _layer_names(root: torch.nn.Module, modules: list[str]) -> dict[str, str]:
    """The block of each module that calls attention: the outermost part of a list that holds no other such module.

    Modules that stand at alike places (apart from numbers) get blocks at alike places.
    """
    choices: dict[str, list[list[str]]] = defaultdict(list)
    members: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        steps = module.split(".") if module else []
        pattern = re.sub(r"\d+", "#", module)
        fit = []
        for depth in range(1, len(steps) + 1):
            name, above = ".".join(steps[:depth]), ".".join(steps[: depth - 1])
            if not isinstance(root.get_submodule(above), _CONTAINERS) or isinstance(
                root.get_submodule(name), _CONTAINERS
            ):
                continue
            inside = [other for other in modules if other == name or other.startswith(name + ".")]
            fit.append(name if len(inside) == 1 else "")
        choices[pattern].append(fit)
        members[pattern].append(module)
    names: dict[str, str] = {}
    for pattern, found in choices.items():
        depths = range(max(len(one) for one in found))
        good = [d for d in depths if all(len(one) > d and one[d] for one in found)]
        deepest_for_single = len(found) == 1
        depth = None if not good else good[-1] if deepest_for_single else good[0]
        for module, fit in zip(members[pattern], found, strict=True):
            parent = module.rpartition(".")[0]
            alone = parent and not any(o != module and o.startswith(parent + ".") for o in modules)
            names[module] = fit[depth] if depth is not None else (parent if alone else module)
    return names


def _labels(tower: torch.nn.Module, n: int) -> tuple[str, ...]:
    """Names of ``n`` special tokens, as far as the parameters of the model tell."""
    known = " ".join(name.rpartition(".")[2].lower() for name, _ in tower.named_parameters())
    labels: list[str] = []
    if n and re.search(r"cls|class", known):
        labels.append("cls")
    if len(labels) < n and re.search(r"dist", known):
        labels.append("distillation")
    rest = "register" if re.search(r"reg|storage", known) else "special"
    return (*labels, *(f"{rest}_{index}" for index in range(n - len(labels))))[:n]
