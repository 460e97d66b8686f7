"""Edits of watched attention: a module is run once to see what its attention sees, and again with what is to be seen.

An edit is of all tokens of a layer, and attention may be computed window by window, or by products whose values are not
known yet when the scores are computed. So the smallest module that holds all calls of a layer is rehearsed: it is run
with its own inputs, nothing is recorded, and the calls say by which factors of which operations they would be others
(`Call.factors`). Then it runs as ever, with these factors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .._compute.random_state import Draws
from ..errors import UnsupportedModelError
from .watching import Call, Watch, watching
from .watching.products import Factors

Edit = Callable[[str, list[Call]], Factors]
"""From a module and its calls in a rehearsal to other factors of their operations."""


def rehearsed(root: torch.nn.Module, run: Callable[[], object], modules: Iterable[str]) -> dict[str, list[str]]:
    """For each module to be rehearsed, those of ``modules`` that call attention in it; no two hold one another.

    ``run`` makes one pass of ``root``.
    """
    paths: dict[str, list[tuple[tuple[str, int], ...]]] = defaultdict(list)
    with watching(root, lambda call: paths[call.module].append(call.path), mute=True):
        run()
    around = {}
    for module in modules:
        shared = takewhile(lambda steps: len(set(steps)) == 1, zip(*paths[module], strict=False))
        around[module] = [steps[0][0] for steps in shared][-1]
    groups: dict[str, list[str]] = defaultdict(list)
    for module, own in around.items():
        outer = [one for one in set(around.values()) if one in ("", own) or own.startswith(one + ".")]
        groups[min(outer, key=len)].append(module)
    return dict(groups)


@contextmanager
def rehearsing(
    root: torch.nn.Module,
    watch: Watch,
    groups: dict[str, list[str]],
    is_edited: Callable[[str], bool],
    edit: Edit,
    device: torch.device,
) -> Iterator[None]:
    """Edit what the calls of attention see while the context is open, where the present pass is edited."""

    def rehearse(part: torch.nn.Module, args: object, kwargs: object, *, modules: list[str]) -> None:
        factors: Factors = {}
        for module in filter(is_edited, modules):  # each with the edits of those before it
            calls: list[Call] = []
            listener, watch.listener, watch.rehearsing = watch.listener, calls.append, True
            watch.factors, watch.count = dict(factors), 0
            draws = Draws(device)
            kept = draws.kept()
            try:
                copied = tree_map(lambda one: one.clone() if isinstance(one, Tensor) else one, (args, kwargs))
                part.forward(*copied[0], **copied[1])
            finally:
                draws.restore(kept)
                watch.listener, watch.rehearsing = listener, False
            factors |= edit(module, [call for call in calls if call.module == module])
        watch.factors, watch.count = factors, 0

    def settle(part: object, *_: object) -> None:
        if watch.factors:
            raise UnsupportedModelError(
                f"{type(part).__name__} computes its attention in another way when it is run again, so it cannot be "
                "edited: leave its layer out of the edits."
            )

    with ExitStack() as stack:
        for name, modules in groups.items():
            part = root.get_submodule(name)
            hook = partial(rehearse, modules=modules)
            stack.callback(part.register_forward_pre_hook(hook, with_kwargs=True).remove)
            stack.callback(part.register_forward_hook(settle).remove)
        yield
