"""Calls of torch functions, seen one by one while a context is open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch.overrides import TorchFunctionMode


class TorchCalls(TorchFunctionMode, ABC):
    """A context in which `call` takes the place of every torch function that is called.

    Examples
    --------
    >>> import torch
    >>> class Names(TorchCalls):
    ...     seen = ()
    ...     def call(self, func, args, kwargs):
    ...         self.seen += (func.__name__,)
    ...         return func(*args, **kwargs)
    >>> with Names() as names:
    ...     _ = torch.zeros(2).exp()
    >>> names.seen
    ('zeros', 'exp')
    """

    @abstractmethod
    def call(self, func: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """What the caller of ``func(*args, **kwargs)`` gets; within, torch functions are not seen."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        return self.call(func, args, kwargs or {})
