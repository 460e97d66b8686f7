"""Titles and flags of results on a page, which are read from the Dataset and never computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._analysis.trust import doubt

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr


def statistic(eig: xr.Dataset, name: str, index: int, component: int) -> Any:
    """One number of one component, whether images were solved alone or as one problem; None where it is absent."""
    if name not in eig:
        return None
    return _of_image(eig[name].sel(component=component), index)


def indistinguishable(eig: xr.Dataset, index: int, component: int) -> list[int]:
    """The other components of the same degenerate group, in order."""
    if "degenerate_group" not in eig:
        return []
    groups = _of_image(eig["degenerate_group"], index)
    numbers = eig.coords["component"].values
    same = groups == groups[numbers == component]
    return [int(number) for number in numbers[same] if number != component]


def component_flags(eig: xr.Dataset, index: int, component: int) -> list[str]:
    """Reasons against trusting this component alone."""
    found = []
    converged = statistic(eig, "converged", index, component)
    if converged is not None and not converged:
        found.append("not converged")
    if others := indistinguishable(eig, index, component):
        found.append(f"cannot be told apart from {', '.join(map(str, others))}")
    return found


def picture_flags(eig: xr.Dataset, index: int) -> list[str]:
    """What a reader must know about this image, whatever the component."""
    found = []
    if "eigenvalue" in eig and "eigengap" in eig:
        reason = doubt(*(_of_image(eig[name], index) for name in ("eigenvalue", "eigengap")))
        found += [reason] if reason else []
    n_isolated = int(eig["isolated"].isel(image=index).sum()) if "isolated" in eig else 0
    if n_isolated:
        found.append(f"{n_isolated} isolated patch{'es' if n_isolated > 1 else ''}")
    return found


def _of_image(values: xr.DataArray, index: int) -> np.ndarray:
    """Values of one image, or of all images that were solved as one problem."""
    return (values.isel(image=index) if "image" in values.dims else values).values


def flags(eig: xr.Dataset, index: int, component: int) -> list[str]:
    """All that a reader must know before trusting this component in this image; empty if nothing speaks against it."""
    return component_flags(eig, index, component) + picture_flags(eig, index)


def component_title(eig: xr.Dataset, index: int, component: int, name: str) -> str:
    """Image, component, eigenvalue, residual and flags, in lines short enough for a small figure."""
    numbers = []
    if (value := statistic(eig, "eigenvalue", index, component)) is not None:
        numbers.append(f"λ = {float(value):.4g}")
    gap = statistic(eig, "eigengap", index, component)
    if gap is not None and np.isfinite(gap):
        numbers.append(f"gap {float(gap):.2g}")
    if (value := statistic(eig, "residual", index, component)) is not None:
        numbers.append(f"residual {float(value):.0e}")
    head = f"{_affinity(eig)} component {component}".strip()
    return _lines(f"{name} · {head}", numbers, flags(eig, index, component))


def three_title(eig: xr.Dataset, index: int, components: Sequence[int], name: str) -> str:
    """The same for three components at once; each flag names its component."""
    letters = ", ".join(f"{letter} {number}" for letter, number in zip("RGB", components, strict=True))
    values = [statistic(eig, "eigenvalue", index, number) for number in components]
    residuals = [statistic(eig, "residual", index, number) for number in components]
    numbers = []
    if None not in values:
        numbers.append("λ = " + ", ".join(f"{float(value):.3g}" for value in values))
    if None not in residuals:
        numbers.append(f"residual up to {max(float(value) for value in residuals):.0e}")
    found = [f"{number} {flag}" for number in components for flag in component_flags(eig, index, number)]
    head = f"{_affinity(eig)} components {letters}".strip()
    return _lines(f"{name} · {head}", numbers, found + picture_flags(eig, index))


def principal_title(eig: xr.Dataset, index: int, components: Sequence[int], share: float, name: str) -> str:
    """The same for the principal components of many, with the share of their variance that is seen."""
    first, last = min(components), max(components)
    of = f"{first} to {last}" if len(components) == last - first + 1 else ", ".join(map(str, components))
    head = f"{_affinity(eig)} PCA of {of}".strip()
    found = [
        f"{number} not converged" for number in components if "not converged" in component_flags(eig, index, number)
    ]
    return _lines(f"{name} · {head}", f"three hold {share:.0%} of the variance", found + picture_flags(eig, index))


def _affinity(eig: xr.Dataset) -> str:
    return str(eig.attrs.get("affinity", "")).upper()


def _lines(*parts: str | list[str]) -> str:
    lines = [part if isinstance(part, str) else " · ".join(part) for part in parts]
    return "\n".join(line for line in lines if line)
