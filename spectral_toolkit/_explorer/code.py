"""Copy as code: a Python program that computes and draws what a state shows, without the explorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .._compute.settings import computing
from .._io.grids import moved
from .recipe import call, capture_lines
from .session import Question, can_be_written_out, questions
from .state import Facts, State
from .views import ROWS_OPACITY, VIEWS
from .wording import setting_names


@dataclass(frozen=True)
class CodedSide:
    """One setting in the code: the names of its variables.

    Attributes
    ----------
    label
        Its name where two settings are compared.
    suffix
        What the names of its variables end in: nothing, or ``"_other"``.
    patch
        The tapped patch, if there is one.
    """

    question: Question
    label: str
    suffix: str
    patch: tuple[int, int] | None

    @property
    def eig(self) -> str:
        """The name of the eigenvectors, as ``st.solve`` returned them."""
        return f"eig{self.suffix}"

    @property
    def graph(self) -> str:
        """The name of the graph."""
        return f"graph{self.suffix}"

    @property
    def marked(self) -> list[tuple[int, int]] | None:
        """The argument ``marked`` of ``st.overlay``."""
        return None if self.patch is None else [self.patch]


@dataclass(frozen=True)
class Program:
    """What the code of a view is made from; the image is called ``one`` in it, as activations.

    Attributes
    ----------
    state
        The explorer's state.
    facts
        The layers and images of the activations.
    images
        The expression for the images over which views are drawn.
    """

    state: State
    facts: Facts
    images: str

    @computing
    def overlay(self, shown: str, settings: Mapping[str, object], **raw: str) -> str:
        """A call of ``st.overlay``; ``raw`` are arguments that are expressions, too."""
        if self.state.scope == "dataset" and "(one)" not in shown:  # the results are of all images
            settings = {"image": self.state.image, **settings}
        return call("st.overlay", [self.images, shown], settings, raw)


def as_code(
    state: State, facts: Facts, attrs: Mapping[str, object], pictures: str | None, bundle: str | None = None
) -> str:
    """The program; its last lines show what the explorer shows.

    Parameters
    ----------
    state
        A checked state.
    attrs
        Attributes of the activations: model, images and settings of the capture.
    pictures
        A Python expression for the images; None where their origin is not known: the program then starts from saved
        activations.
    bundle
        The path of the bundle that is explored, if it is one: the program then opens it.
    """
    asked = questions(state, facts)
    names = setting_names([question.affinity for question in asked])
    sides = [
        CodedSide(question, name, "" if place == 0 else "_other", _patch(state, question, facts))
        for place, (question, name) in enumerate(zip(asked, names, strict=True))
    ]
    held = "activations" if state.scope == "dataset" else "one"
    program = Program(state, facts, held if pictures is None and bundle is None else "images")
    drawn, shown = _drawing(program, sides)
    imports = ["import spectral_toolkit as st"]
    if len(shown) > 1:
        imports.insert(0, "from IPython.display import display")
    if bundle is not None:
        start = [
            "",
            f"bundle = st.load_bundle({bundle!r})",
            "activations, images = bundle.activations, bundle.pictures",
        ]
    elif pictures is None:
        imports.insert(len(imports) - 1 if len(imports) == 1 else 0, "import xarray as xr")
        start = [
            "",
            "# The images came from a variable, so this program starts from activations saved with",
            "# explorer.activations.to_zarr('activations.zarr').",
            "activations = xr.open_datatree('activations.zarr', engine='zarr', consolidated=False).load()",
        ]
    else:
        start = ["", *capture_lines(attrs, pictures)]
    start.append(f"one = activations.isel(image=[{state.image}])  # {facts.images[state.image]!a}")
    if state.mask_outliers:
        start.append("mask = st.outlying_masks(one)")
    lines = [*imports, *start]
    for place, side in enumerate(sides):
        lines += ["", *_solving(replace(program, state=state.of_side(place)), side)]
    ending = [f"display({view})" for view in shown[:-1]]
    return "\n".join([*lines, "", *drawn, *ending, shown[-1]]) + "\n"


def _solving(program: Program, side: CodedSide) -> list[str]:
    """Lines of code that compute what one setting shows."""
    state, facts, question, suffix = program.state, program.facts, side.question, side.suffix
    weights = dict(question.weights)
    whole = question.image is None
    settings: dict[str, object] = {"kernel": question.kernel, "scope": "dataset" if whole else None}
    source = "activations" if whole else "one"
    raw = {"mask": "mask"} if question.mask_outliers else {}
    fewer = None if len(weights) == len(facts.layers) else list(weights)
    # Layers that are switched off are still shown in the rows of a patch, and by some views.
    all_shown = state.patch is not None or VIEWS[state.view].all_layers
    graph = call(
        "st.affinity", [source, repr(question.affinity)], settings | {"layers": None if all_shown else fewer}, raw
    )
    if all_shown and fewer:
        weights = {**dict.fromkeys(facts.layers, 0.0), **weights}
    lines = [f"{side.graph} = {graph}"]
    if any(weight != 1 for weight in weights.values()):
        lines[-1] += f".reweight({weights!r})"
    lines.append(f"{side.eig} = st.solve({side.graph}, n_eigenvectors={question.n_eigenvectors})")
    if state.cut is not None and not whole and can_be_written_out(facts.grid_of(weights)):
        lines.append(f"costs{suffix} = st.cut_costs({side.eig}, {side.graph}, {state.component})")
    if side.patch is not None:
        image = f", {state.image}" if whole else ""
        lines.append(f"joint{suffix}, by_layer{suffix} = st.affinity_row({side.graph}, {side.patch!r}{image})")
        if state.heads and not whole:
            heads = settings | {"heads": "each", "layers": fewer}
            lines.append(f"heads{suffix} = {call('st.affinity', ['one', repr(question.affinity)], heads, raw)}")
            lines.append(f"_, by_layer{suffix} = st.affinity_row(heads{suffix}, {side.patch!r})")
    return lines


def _drawing(program: Program, sides: Sequence[CodedSide]) -> tuple[list[str], list[str]]:
    """Lines of code that draw, and the expressions to be shown one after the other."""
    view = VIEWS[program.state.view]
    drawn = [[side] for side in sides] if view.tiles is not None and not view.alone else [sides]
    lines: list[str] = []
    for place, together in enumerate(drawn):
        *before, shown = view.code(replace(program, state=program.state.of_side(place)), together)
        lines += [*before, f"view{together[0].suffix} = {shown}"]
    views = [f"view{together[0].suffix}" for together in drawn]
    shown = [" + ".join(views)] if view.joined else views
    for side in sides if program.state.patch is not None else ():
        rows = f"{{'all layers': joint{side.suffix}, **by_layer{side.suffix}}}"
        lines.append(f"rows{side.suffix} = {program.overlay(rows, {'opacity': ROWS_OPACITY})}")
        shown.append(f"rows{side.suffix}")
    return lines, shown


def _patch(state: State, question: Question, facts: Facts) -> tuple[int, int] | None:
    """The tapped patch, on the grid of one setting."""
    return (
        None
        if state.patch is None
        else moved(state.patch, facts.grid_of(state.weights or {}), facts.grid_of(dict(question.weights)))
    )
