"""Copy as code where two captures are compared, or one timestep of several is shown: a program for each, joined."""

from __future__ import annotations

from dataclasses import replace

from .code import as_code
from .session import Session
from .sources import TIMESTEP, SeveralSessions
from .state import State

_START = "one = activations"


def sources_code(session: SeveralSessions, state: State, pictures: str | None, bundle: str | None) -> str:
    """The program; see `as_code`."""
    first = session.session(0, state.timestep)
    lines = _program(replace(state, compare=False), first, state.timestep, pictures, bundle)
    if not state.compare:
        return "\n".join(lines) + "\n"
    beside, alone = session.second(state)
    second = _program(alone, beside, state.other_timestep, pictures, bundle if session.facts.sources == 1 else None)
    second = [line for line in second if not line.startswith(("import ", "from "))]
    second = [line.replace("'activations.zarr'", "'other_activations.zarr'") for line in second]
    if session.facts.sources == 1:
        second = [line.replace("'other_activations.zarr'", "'activations.zarr'") for line in second]
    solved = next(place for place, line in enumerate(second) if line.startswith("eig = st.solve("))
    second.insert(solved + 1, "eig = st.align(eig, first)")
    if "from IPython.display import display" not in lines:
        lines.insert(0, "from IPython.display import display")
    lines[-1:] = [f"display({lines[-1]})", "first = eig", "", "# What it is compared with, aligned to it."]
    ending = [f"display({second[-1]})", "st.subspace_distance(first, eig)"]
    return "\n".join([*lines, *second[:-1], *ending]) + "\n"


def _program(
    state: State, session: Session, timestep: int | None, pictures: str | None, bundle: str | None
) -> list[str]:
    attrs = {str(name): value for name, value in session.activations.attrs.items()}
    lines = as_code(replace(state, timestep=None), session.facts, attrs, pictures, bundle).splitlines()
    if timestep is not None:
        place = next(number for number, line in enumerate(lines) if line.startswith(_START))
        lines.insert(place, f"activations = activations.isel({TIMESTEP}=[{timestep}])")
    return lines
