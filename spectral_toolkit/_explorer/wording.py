"""What the controls are called and say of themselves: one sentence each, for somebody who never saw an eigenvector."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import xarray as xr

from .._affinity.table import KERNELS, default_kernel
from .._analysis.regions.joint import MOST_DENSE
from .._analysis.trust import Statement
from .._render.colour import DIVERGING, SEQUENTIAL, css_gradient
from .._render.titles import component_flags, statistic
from .session import Side
from .state import State


class Affinity(NamedTuple):
    """A kind of affinity, in words: its button, its name, the two vectors that are compared, and what ties patches."""

    button: str
    name: str
    vectors: tuple[str, str]
    tied: str


AFFINITIES = {
    "qk": Affinity("QK", "Query-key", ("q", "k"), "Patches are tied when one looks at the other."),
    "vv": Affinity(
        "VV", "Value-value", ("v", "v'"), "Patches are tied when they pass on the same thing, wherever they are."
    ),
    "kk": Affinity("KK", "Key-key", ("k", "k'"), "Patches are tied when they are looked for in the same way."),
    "qq": Affinity("QQ", "Query-query", ("q", "q'"), "Patches are tied when they look for the same thing."),
    "qk_unrotated": Affinity(
        "QK flat", "Query-key before the rotary positions", ("q", "k"), "Patches are tied by content alone."
    ),
    "token": Affinity(
        "Token", "Token-token", ("t", "t'"), "Patches are tied when the residual stream holds the same for both."
    ),
}
TIPS = {
    "kernel": "How two vectors become one number that says how strongly their patches are tied.",
    "weights": "How much this layer counts in the joint problem; all layers are solved together.",
    "layer": "Switch this layer on or off.",
    "n_eigenvectors": "How many of the best cuts to compute, best first.",
    "component": "Which cut to show: 1 is the cheapest way to part the picture in two.",
    "opacity": "How strongly the colours cover the picture.",
    "smooth": "Blend the colours between patches; the values under the cursor stay those that were computed.",
    "is_cut": "Cut the eigenvector in two: only the side above a threshold is coloured.",
    "threshold": "Where to cut: 0 parts blue from gold, towards 1 less is left above, towards -1 more.",
    "lowest": "Go to the threshold where the two sides are tied least, of the first setting.",
    "compare": "Show a second setting beside this one, with a common cursor and zoom.",
    "other_affinity": "The affinity of the second setting.",
    "other_kernel": "The kernel of the second setting.",
    "other_layers": "The layers of the second setting: the same, or a preset.",
    "n_segments": "Into how many groups the patches are sorted; auto takes the number that parts them best.",
    "mask_outliers": "Leave tokens of outlying norm out of their layer: they hold artefacts, not the patch.",
    "heads": "Show the tapped patch's row for every attention head instead of every layer.",
    "untap": "Forget the tapped patch.",
    "three": "Which eigenvector becomes this colour.",
    "all": "All layers, each at weight 1.",
    "early": "The first third of the layers.",
    "middle": "The middle third of the layers.",
    "late": "The last third of the layers.",
    "invert": "The layers that are off now, instead of those that are on.",
    "code": "Python that computes what is shown, to run anywhere.",
    "png": "Save the picture that is shown as a PNG file.",
    "svg": "Save the picture that is shown as an SVG file.",
    "html": "Save a page that can be explored without Python or a network.",
    "bundle": "Save activations, eigenvectors and pictures, to open again without the model.",
    "load": "Open a bundle that was saved before.",
    "path": "The file to save to or to load from; without an ending the button adds its own.",
    "cancel": "Stop computing; the picture stays what it was.",
}


def affinity_tip(kind: str, kernel: str | None) -> str:
    """What a kind of affinity is, by name, formula and meaning."""
    affinity = AFFINITIES[kind]
    formula = KERNELS[kernel or default_kernel(kind)].short.format(*affinity.vectors)
    return f"{affinity.name}: {formula}. {affinity.tied}"


def title(state: State, side: Side) -> tuple[str, str]:
    """What one picture shows, above it, and what ties its patches."""
    question = side.question
    name = AFFINITIES[question.affinity].button
    kernel = question.kernel or default_kernel(question.affinity)
    head = f"{name} · {kernel.replace('_', ' ')}"
    tied = AFFINITIES[question.affinity].tied.split(", ")[0].rstrip(".") + "."
    if state.view == "picture":
        value = statistic(side.eig, "eigenvalue", 0, state.component)
        notes = "".join(f" · {flag}" for flag in component_flags(side.eig, 0, state.component))
        return f"{head} · eigenvector {state.component}, λ = {float(value):.3f}{notes}", tied
    if state.view == "rgb":
        return f"{head} · eigenvectors {', '.join(map(str, state.three))} as red, green, blue", tied
    return f"{head} · {side.eig.sizes['component']} eigenvectors", tied


def short_title(side: Side) -> str:
    """The setting in one word or two."""
    return AFFINITIES[side.question.affinity].button


def setting_names(affinities: Sequence[str]) -> list[str]:
    """The settings that are compared, by affinity, each with a name of its own.

    Examples
    --------
    >>> setting_names(["qk", "vv"]), setting_names(["qk", "qk"])
    (['QK', 'VV'], ['QK (first)', 'QK (second)'])
    """
    names = [AFFINITIES[affinity].button for affinity in affinities]
    if len(set(names)) < len(names):
        names = [f"{name} ({which})" for name, which in zip(names, ("first", "second"), strict=True)]
    return names


def legend(state: State) -> str:
    """How to read the colours, below the picture."""
    if state.cut is not None:
        return (
            f'<span class="st-bar" style="background:{css_gradient(DIVERGING)}"></span>'
            "Only the side above the threshold is coloured; the line is the cut. A normalised cut of 0 cuts no tie, 1 "
            "is as bad as a random cut; none is below the λ of eigenvector 1."
        )
    if state.view in ("picture", "grid"):
        return (
            f'<span class="st-bar" style="background:{css_gradient(DIVERGING)}"></span>'
            "Blue and gold are the two sides of a cut, white is undecided. Which side is gold means nothing. λ is what "
            "the cut costs: 0 cuts no tie, 1 is as bad as a random cut."
        )
    if state.view == "rgb":
        return "Patches of one colour belong together; grey ones are undecided in all three."
    if state.view == "segments":
        return "One colour for each group of patches. The numbers mean nothing but the group."
    if state.view == "instances":
        return "One colour for each thing found; what no thing covers stays clear."
    if state.view == "norms":
        return (
            f'<span class="st-bar" style="background:{css_gradient(SEQUENTIAL)}"></span>'
            "Length of each patch's token, from zero to the longest of the layer. Framed ones stick out."
        )
    if state.view == "spectrum":
        return (
            "Each dot is an eigenvector: the lower, the cheaper its cut (0 cuts no tie, 1 is what a random cut costs). "
            "A wide gap after a dot says how many groups there are. Tap a dot to choose it."
        )
    return (
        "A bar below the dashed line: this layer holds the grouping. Above it: the grouping cuts through what the "
        "layer ties together."
    )


def cut_cost(state: State, sides: Sequence[Side]) -> str:
    """How much of the picture is above the threshold, and what that cut costs, for every setting shown."""
    if state.cut is None:
        return ""
    lines = []
    for side in sides:
        head = f"<b>{short_title(side)}</b> " if len(sides) > 1 else ""
        if side.costs is None:
            lines.append(f"{head}more than {MOST_DENSE:,} patches: what a cut costs is not computed.")
            continue
        at = side.costs.sel(threshold=state.cut, method="nearest")
        share, cost, best = float(at["share"]), float(at["normalised_cut"]), float(side.costs["best"])
        if math.isnan(cost):
            lines.append(f"{head}{share:.0%} of the patches: no cut.")
            continue
        lowest = float(side.costs["normalised_cut"].min())
        lines.append(
            f"{head}{share:.0%} of the patches, normalised cut {cost:.3f} (lowest {lowest:.3f}, at {best:.2f})"
        )
    return "<br>".join(lines)


def trust_html(sides: Sequence[Side]) -> str:
    """The trust lines of every setting shown; warnings first, the rest folded away."""
    parts = []
    common = [one for one in sides[0].trust if all(one in side.trust for side in sides[1:])] if len(sides) > 1 else []
    parts += [f'<div class="st-trust">{_statement(one)}</div>' for one in common]
    for side in sides:
        head = f"<b>{short_title(side)}</b> " if len(sides) > 1 else ""
        own = [one for one in side.trust if one not in common]
        if not own:
            continue
        first, *others = own
        more = "".join(f"<li>{_statement(one)}</li>" for one in others)
        folded = f"<details><summary>{len(others)} more</summary><ul>{more}</ul></details>" if others else ""
        parts.append(f'<div class="st-trust">{head}{_statement(first)}{folded}</div>')
    return "".join(parts)


def _statement(statement: Statement) -> str:
    sign = {"warning": "⚠", "note": "•", "ok": "✓"}[statement.level]
    return f'<span class="st-{statement.level}">{sign} {html.escape(statement.text)}</span>'


def row_legend(state: State, eig: xr.Dataset) -> str:
    """How to read the tapped patch's rows."""
    if state.patch is None:
        return "<b>Tap a patch</b> in the picture to see what it is tied to, in all layers jointly and in each alone."
    row, column = state.patch
    return (
        f'<span class="st-bar" style="background:{css_gradient(SEQUENTIAL)}"></span>'
        f"What the patch in row {row}, column {column} (framed) is tied to: black not at all, white most strongly."
    )
