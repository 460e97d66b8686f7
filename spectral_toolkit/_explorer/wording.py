"""Labels and hints of the controls: one sentence each, for a reader who has never seen an eigenvector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .._affinity.table import KERNELS, default_kernel
from .._analysis.regions.joint import MOST_DENSE
from .session import Side
from .state import State
from .views import VIEWS


class Affinity(NamedTuple):
    """A kind of affinity in words: its button, its name, the two vectors compared, and which patches it connects."""

    button: str
    name: str
    vectors: tuple[str, str]
    tied: str


AFFINITIES = {
    "qk": Affinity("QK", "Query-key", ("q", "k"), "Patches belong together when one attends to the other."),
    "vv": Affinity(
        "VV",
        "Value-value",
        ("v", "v'"),
        "Patches belong together when they pass on the same content, wherever they are.",
    ),
    "kk": Affinity("KK", "Key-key", ("k", "k'"), "Patches belong together when the same queries attend to them."),
    "qq": Affinity("QQ", "Query-query", ("q", "q'"), "Patches belong together when they attend to the same keys."),
    "qk_unrotated": Affinity(
        "QK flat", "Query-key before the rotary positions", ("q", "k"), "Patches belong together by content alone."
    ),
    "token": Affinity(
        "Token", "Token-token", ("t", "t'"), "Patches belong together when the residual stream is alike at both."
    ),
}
TIPS = {
    "scope": "Solve every image alone, or all images as one problem, so that they share their eigenvectors.",
    "kernel": "How two vectors become one number: the affinity of their patches.",
    "layers": "The weight of every layer in the joint problem: drag across rows to set several at once, or click a "
    "name to switch a layer on or off. With the keyboard: up and down choose a layer, left and right its weight, space "
    "switches it.",
    "n_eigenvectors": "How many eigenvectors to compute, beginning with the lowest cut value.",
    "component": "Which eigenvector to show: 1 divides the image in two with the lowest cut value.",
    "opacity": "How strongly the colours cover the image.",
    "smooth": "Blend the colours between patches; the values under the cursor remain those that were computed.",
    "is_cut": "Cut the eigenvector in two: only the side above a threshold is coloured.",
    "threshold": "Where to cut: 0 separates blue from gold; towards 1 fewer patches are above, towards -1 more.",
    "lowest": "Go to the threshold with the lowest cut value in the first setting.",
    "compare": "Show a second setting beside this one, with the same cursor and zoom.",
    "other_affinity": "The affinity of the second setting.",
    "other_kernel": "The kernel of the second setting.",
    "other_component": "The eigenvector of the second setting.",
    "timestep": "Which timestep of the denoiser is shown; 'all' takes them together.",
    "other_timestep": "Which timestep of the denoiser the second setting shows.",
    "other_layers": "The layers of the second setting: the same ones, or a preset.",
    "n_segments": "How many segments the patches are sorted into; auto takes the number that separates them best, "
    "widest gap one more than the eigenvectors before the widest eigengap.",
    "mask_outliers": "Leave tokens of outlying norm out of their layer, as they hold artefacts and not their patch.",
    "heads": "Show the tapped patch's row for every attention head instead of every layer.",
    "axes": "Which eigenvector gives the place of a point in this direction.",
    "projection": "Show two eigenvectors, or t-SNE of all of them: a map that keeps neighbours together.",
    "coloured": "What colours the points: the mean colour of a patch's pixels, its position, segment, image or label.",
    "outlined": "Draw the borders between labels over the image.",
    "of_segment": "Choose all patches of a segment.",
    "to_nearest": "Choose the tapped patch and those to which it has the strongest joint affinities.",
    "to_none": "Choose no patch.",
    "untap": "Forget the tapped patch.",
    "three": "Which eigenvector is shown in this colour.",
    "all": "All layers, each at weight 1.",
    "early": "The first third of the layers.",
    "middle": "The middle third of the layers.",
    "late": "The last third of the layers.",
    "invert": "Switch on the layers that are off now, and switch off those that are on.",
    "code": "Python code that computes what is shown and runs anywhere.",
    "png": "Save the image that is shown as a PNG file.",
    "svg": "Save what is shown as an SVG file, with colour bar, names and what was solved; needs matplotlib.",
    "pdf": "Save what is shown as a PDF file, with colour bar, names and what was solved; needs matplotlib.",
    "save": "Save settings, eigenvectors and the place of the activations, for st.Explorer.restore.",
    "html": "Save a page that can be explored without Python or a network.",
    "bundle": "Save activations, eigenvectors and images, to be opened again without the model.",
    "load": "Open a bundle that was saved before.",
    "add": "Capture further images with the same model; files can also be dropped onto the explorer.",
    "path": "The file to save to or load from; each button adds its own ending where there is none.",
    "undo": "Go back to what was set before the last change.",
    "redo": "Take back what was undone last.",
    "keys": "Show the keys that work while the focus is in the explorer.",
    "full": "Let the explorer fill the screen, or leave the full screen again.",
    "cancel": "Stop computing; the image stays as it was.",
}


def affinity_tip(kind: str, kernel: str | None, scope: str = "image") -> str:
    """A kind of affinity by its name, formula and meaning."""
    affinity = AFFINITIES[kind]
    formula = KERNELS[kernel or default_kernel(kind, scope)].short.format(*affinity.vectors)
    return f"{affinity.name}: {formula}. {affinity.tied}"


def title(state: State, side: Side) -> tuple[str, str]:
    """The title above one image: what it shows, and which patches belong together."""
    view = VIEWS[state.view]
    heading = view.heading(state, side)
    if view.alone:
        return heading, ""
    question = side.question
    name = AFFINITIES[question.affinity].button
    kernel = question.kernel or default_kernel(question.affinity, question.scope)
    tied = AFFINITIES[question.affinity].tied.split(", ")[0].rstrip(".") + "."
    name = f"{side.source} · {name}" if side.source else name
    return f"{name} · {kernel.replace('_', ' ')} · {heading}", tied


def short_title(side: Side) -> str:
    """The setting in one or two words."""
    name = AFFINITIES[side.question.affinity].button
    return f"{side.source} · {name}" if side.source else name


def side_names(sides: Sequence[Side]) -> list[str]:
    """Names of what is compared, all different."""
    if any(side.source for side in sides):
        names = [short_title(side) for side in sides]
        return names if len(set(names)) == len(names) else [f"{name} ({place})" for place, name in enumerate(names, 1)]
    return setting_names([side.question.affinity for side in sides])


def setting_names(affinities: Sequence[str]) -> list[str]:
    """Names of the settings that are compared, all different, made from their affinities.

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
    """How to read the colours; shown below the image."""
    view = VIEWS[state.view]
    return view.legend(state) if callable(view.legend) else view.legend


def cut_cost(state: State, sides: Sequence[Side]) -> str:
    """The share of the image above the threshold and the cut value there, for every setting shown."""
    if state.cut is None:
        return ""
    lines = []
    for side in sides:
        head = f"<b>{short_title(side)}</b> " if len(sides) > 1 else ""
        if side.costs is None:
            why = "all images as one" if state.scope == "dataset" else f"more than {MOST_DENSE:,} patches"
            lines.append(f"{head}{why}: the cut value is not computed.")
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
