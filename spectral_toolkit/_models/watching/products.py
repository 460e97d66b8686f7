"""Recognises attention that is written out: a softmax between two matrix products.

While a model runs, the result of every matrix product carries a note of its two factors. Operations that act on each
number alone, or only change shape, hand the note on; a softmax over the last axis turns it into a note of attention
weights; and a product of such weights with a third matrix is a call of attention. Anything else drops the note, so that
attention whose weights are mixed between heads, for example, is not mistaken for attention that is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

_NOTE = "_spectral_toolkit_note"
_SAME_ORDER = frozenset(
    {"view", "reshape", "unsqueeze", "squeeze", "flatten", "unflatten", "contiguous", "clone", "detach", "_unsafe_view"}
)
_CASTS = frozenset(
    {"to", "float", "half", "double", "bfloat16", "type", "type_as", "dropout", "dropout_", "alpha_dropout"}
)
_TIMES = frozenset({"mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply"})
_OVER = frozenset({"div", "div_", "__truediv__", "__itruediv__", "true_divide", "divide"})
_ELEMENTWISE = frozenset(
    {
        *("add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__isub__", "subtract"),
        *("masked_fill", "masked_fill_", "where", "clamp", "clamp_", "clamp_min", "clamp_max", "clip", "tanh", "tanh_"),
        *("nan_to_num", "nan_to_num_"),
    }
)
_PRODUCTS = frozenset({"matmul", "__matmul__", "bmm", "baddbmm", "baddbmm_"})


@dataclass(frozen=True)
class Product:
    """Scores that come from a product: ``left`` (..., query, channel) times ``right`` (..., channel, key).

    ``place`` is its number among all operations that may be given other factors, ``factor`` the number by which the
    product has been multiplied since, ``rows`` what its rows have been multiplied by, and ``changed`` says whether
    anything was added or cut.
    """

    left: Tensor
    right: Tensor
    place: int
    factor: float = 1.0
    rows: Tensor | None = None
    changed: bool = False


@dataclass(frozen=True)
class Weights:
    """The softmax of ``logits``, which come from ``product``."""

    product: Product
    logits: Tensor


Factors = dict[int, dict[str, Tensor]]
"""By place, what takes the place of the factors of an operation: of ``left`` and ``right`` of a product."""
Found = Callable[..., None]
"""Called with query, key, value, scale and additive bias of each call; ``linear=True`` where there is no softmax.
``factors`` tells by what factors the call would have other queries, keys and values, given by name."""


def note_of(value: object) -> Product | Weights | None:
    """The note that a tensor carries."""
    return getattr(value, _NOTE, None) if isinstance(value, Tensor) else None


def is_product(name: str) -> bool:
    """Whether an operation of this name may be a product of matrices."""
    return name in _PRODUCTS or name == "einsum"


def replaced(
    name: str, args: tuple[object, ...], kwargs: dict[str, object], factors: dict[str, Tensor]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """The arguments of a product with other factors."""
    left, right = factors.get("left"), factors.get("right")
    if name == "einsum":
        equation, listed = str(args[0]), len(args) == 2
        operands = list(cast("Sequence[object]", args[1]) if listed else args[1:])
        found = _einsum_factors(equation, operands[0], operands[1])
        assert found is not None
        for number, (new, order) in enumerate(zip((left, right), found.orders, strict=True)):
            if new is not None:
                operands[number] = new.permute([order.index(axis) for axis in range(len(order))])
        return ((equation, operands) if listed else (equation, *operands)), kwargs
    first = 1 if name.startswith("baddbmm") else 0
    given = list(args)
    if left is not None:
        given[first] = left
    if right is not None and len(given) > first + 1:
        given[first + 1] = right
    elif right is not None:
        kwargs = kwargs | {key: right for key in ("other", "mat2") if key in kwargs}
    return tuple(given), kwargs


def follow(
    name: str, args: tuple[object, ...], kwargs: dict[str, object], out: object, found: Found, place: int
) -> bool:
    """Hand notes on through one operation; whether it completed a call of attention, whose values are ``out``."""
    if not isinstance(out, Tensor):
        return False
    if is_product(name):
        return _product(name, args, kwargs, out, found, place)
    carrier = next((one for one in args if isinstance(one, Tensor) and note_of(one) is not None), None)
    if carrier is None:
        return False
    note = note_of(carrier)
    handed: Product | Weights | None = None
    if name in ("softmax", "_softmax") and isinstance(note, Product):
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if dim in (-1, carrier.ndim - 1):
            handed = Weights(note, carrier)
    elif out.numel() != carrier.numel():
        handed = None
    elif name in _SAME_ORDER or name in _CASTS:
        handed = note
    elif isinstance(note, Product) and (name in _TIMES or name in _OVER):
        handed = _scaled(note, name, carrier, args, out)
    elif isinstance(note, Product) and name in _ELEMENTWISE:
        handed = replace(note, changed=True)
    if handed is None:
        # An operation in place leaves a note that is no longer true.
        if getattr(out, _NOTE, None) is not None and out is carrier:
            delattr(out, _NOTE)
        return False
    setattr(out, _NOTE, handed)
    return False


def _scaled(note: Product, name: str, carrier: Tensor, args: tuple[object, ...], out: Tensor) -> Product | None:
    other = args[1] if args[0] is carrier else args[0]
    divides = name in _OVER
    if divides and args[0] is not carrier:
        return None
    if isinstance(other, Tensor) and other.numel() == 1:
        other = float(other)
    if isinstance(other, (int, float)):
        factor = float(other)
        if not factor or not math.isfinite(factor):
            return replace(note, changed=True)
        if note.changed:  # then the bias holds what the factor no longer says
            return note
        return replace(note, factor=note.factor / factor if divides else note.factor * factor)
    if not isinstance(other, Tensor):
        return None
    if other.shape[-1] == 1 and not note.changed and note.rows is None and out.shape == carrier.shape:
        return replace(note, rows=1 / other if divides else other)
    return replace(note, changed=True)


def _product(
    name: str, args: tuple[object, ...], kwargs: dict[str, object], out: Tensor, found: Found, place: int
) -> bool:
    added, alpha, in_order = False, 1.0, True
    left: object
    right: object
    if name == "einsum":
        operands = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
        if len(operands) != 2 or not isinstance(args[0], str):
            return False
        factors = _einsum_factors(args[0], operands[0], operands[1])
        if factors is None:
            return False
        left, right, in_order = factors.left, factors.right, factors.in_order
    elif name.startswith("baddbmm") and len(args) == 3:
        start, left, right = args
        alpha = float(cast("float", kwargs.get("alpha", 1)))
        added = kwargs.get("beta", 1) != 0 and bool(torch.any(cast("Tensor", start) != 0))
    else:
        left = args[0]
        right = args[1] if len(args) > 1 else kwargs.get("other", kwargs.get("mat2"))
    if not (isinstance(left, Tensor) and isinstance(right, Tensor)) or left.ndim < 3 or right.ndim < 3:
        return False
    weights = note_of(left)
    if isinstance(weights, Weights):
        return _complete(weights, left, right, found, place)
    if isinstance(weights, Product) and in_order and _linear(weights, right, found, place):
        return True
    if in_order:  # the result has the axes of a matrix product in their usual order
        setattr(out, _NOTE, Product(left, right, place, factor=alpha, changed=added))
    return False


def _complete(weights: Weights, left: Tensor, value: Tensor, found: Found, place: int) -> bool:
    """Report a call whose weights meet their values; their axes in front may have been regrouped since the scores."""
    product, own = weights.product, value
    query, key = product.left, product.right.transpose(-1, -2)
    front = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    query, key = query.expand(*front, *query.shape[-2:]), key.expand(*front, *key.shape[-2:])
    if math.prod(value.shape[:-2]) != math.prod(front) or value.shape[-2] != key.shape[-2]:
        value = value.expand(*left.shape[:-2], *value.shape[-2:]) if value.ndim <= left.ndim else value
        if math.prod(value.shape[:-2]) != math.prod(front) or value.shape[-2] != key.shape[-2]:
            return False
    value = value.reshape(*front, *value.shape[-2:])
    bias, rows = None, product.rows
    if rows is not None:
        shape = (*front, query.shape[-2], key.shape[-2])
        if rows.ndim > len(shape):
            return False
        rows = rows.expand(*shape[:-1], 1)
        query = query * rows
    if product.changed:
        logits = weights.logits.reshape(*front, query.shape[-2], key.shape[-2]).float()
        bias = logits - product.factor * (query.float() @ key.float().transpose(-1, -2))

    def factors(changed: dict[str, Tensor]) -> Factors:
        other: Factors = {product.place: {}, place: {}}
        if (new := changed.get("query")) is not None:
            other[product.place]["left"] = new if rows is None else new / rows
        if (new := changed.get("key")) is not None:
            other[product.place]["right"] = new.transpose(-1, -2)
        if (new := changed.get("value")) is not None:
            same = new.numel() == own.numel()
            other[place]["right"] = new.reshape(own.shape if same else (*left.shape[:-2], *own.shape[-2:]))
        return other

    found(query, key, value, product.factor, bias, factors=factors)
    return True


def _linear(product: Product, query: Tensor, found: Found, place: int) -> bool:
    """Report linear attention, (value' key) query: values and keys are multiplied over all tokens, with no softmax.

    Values may have one more channel, of ones, by which the result is divided.
    """
    value, key = product.left.transpose(-1, -2), product.right  # (..., token, channel)
    query = query.transpose(-1, -2)
    n, channels = key.shape[-2:]
    whole = product.factor == 1 and not product.changed and product.rows is None
    alike = query.shape == key.shape and value.shape[:-2] == key.shape[:-2] and n > 1
    if not (whole and alike and query.ndim == 4 and value.shape[-1] in (channels, channels + 1)):
        return False

    def factors(changed: dict[str, Tensor]) -> Factors:
        other: Factors = {product.place: {}, place: {}}
        if (new := changed.get("query")) is not None:
            other[place]["right"] = new.transpose(-1, -2)
        if (new := changed.get("key")) is not None:
            other[product.place]["right"] = new
        if (new := changed.get("value")) is not None:
            other[product.place]["left"] = torch.cat([new, value[..., channels:]], -1).transpose(-1, -2)
        return other

    found(query, key, value[..., :channels], 1.0, None, linear=True, factors=factors)
    return True


@dataclass(frozen=True)
class _Einsum:
    """The matrices of an einsum that is a batched product, (..., i, d) and (..., d, j), and how they were permuted.

    ``in_order`` says whether the result's last two axes are i and j; if not, only a completed call can be told.
    """

    left: Tensor
    right: Tensor
    in_order: bool
    orders: tuple[list[int], list[int]]


def _einsum_factors(equation: str, left: object, right: object) -> _Einsum | None:
    equation = equation.replace(" ", "")
    if "..." in equation or "->" not in equation:
        return None
    inputs, output = equation.split("->")
    if inputs.count(",") != 1 or not isinstance(left, Tensor) or not isinstance(right, Tensor):
        return None
    first, second = inputs.split(",")
    if (
        len(first) != left.ndim
        or len(second) != right.ndim
        or len(set(first)) != len(first)
        or len(set(second)) != len(second)
    ):
        return None
    contracted = [axis for axis in first if axis in second and axis not in output]
    batch = [axis for axis in output if axis in first and axis in second]
    rows = [axis for axis in first if axis in output and axis not in second]
    columns = [axis for axis in second if axis in output and axis not in first]
    if len(contracted) != 1 or len(rows) != 1 or len(columns) != 1:
        return None
    order_a = [first.index(axis) for axis in (*batch, rows[0], contracted[0])]
    order_b = [second.index(axis) for axis in (*batch, contracted[0], columns[0])]
    a, b = left.permute(order_a), right.permute(order_b)
    in_order = output == "".join((*batch, rows[0], columns[0]))
    weights = note_of(left)
    if weights is not None and [*batch, rows[0], contracted[0]] == list(first):
        setattr(a, _NOTE, weights)
    return _Einsum(a, b, in_order, (order_a, order_b))
