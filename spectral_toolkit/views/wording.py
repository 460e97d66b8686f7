"""How an answer is named on a page: titles and flags, read from the Dataset and never computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr


def statistic(eig: xr.Dataset, name: str, index: int, component: int) -> Any:
    """One number of one component, whether each image was solved alone or all together; None where it is absent."""
    if name not in eig:
        return None
    values = eig[name].sel(component=component)
    return (values.isel(image=index) if "image" in values.dims else values).values


def indistinguishable(eig: xr.Dataset, index: int, component: int) -> list[int]:
    """The other components of the same degenerate group, in order."""
    if "degenerate_group" not in eig:
        return []
    groups = eig["degenerate_group"]
    groups = (groups.isel(image=index) if "image" in groups.dims else groups).values
    numbers = eig.coords["component"].values
    same = groups == groups[numbers == component]
    return [int(number) for number in numbers[same] if number != component]


def flags(eig: xr.Dataset, index: int, component: int) -> list[str]:
    """What a reader must know before believing this component; empty where nothing stands against it."""
    found = []
    converged = statistic(eig, "converged", index, component)
    if converged is not None and not converged:
        found.append("not converged")
    if others := indistinguishable(eig, index, component):
        found.append(f"cannot be told apart from {', '.join(map(str, others))}")
    if "isolated" in eig and (n_isolated := int(eig["isolated"].isel(image=index).sum())):
        found.append(f"{n_isolated} isolated cell{'s' if n_isolated > 1 else ''}")
    return found


def component_title(eig: xr.Dataset, index: int, component: int, name: str) -> str:
    """Picture, component, eigenvalue, residual and flags, in lines short enough for a small figure."""
    head = f"{str(eig.attrs.get('affinity', '')).upper()} component {component}".strip()
    numbers = []
    for symbol, variable, form in (("λ", "eigenvalue", ".4g"), ("residual", "residual", ".0e")):
        value = statistic(eig, variable, index, component)
        if value is not None:
            numbers.append(f"{symbol} {'=' if symbol == 'λ' else ''} {float(value):{form}}".replace("  ", " "))
    lines = [f"{name} · {head}", " · ".join(numbers), " · ".join(flags(eig, index, component))]
    return "\n".join(line for line in lines if line)
