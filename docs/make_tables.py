"""Rewrite the tables of docs/supported.md from the code's: ``python docs/make_tables.py``. A test compares them."""

from __future__ import annotations

from pathlib import Path

from marked import filled

PAGE = Path(__file__).resolve().parent / "supported.md"


def kernel_table() -> str:
    """Kernels and the affinities they work on, from the table that errors and dispatch read."""
    from spectral_toolkit._affinity.features import KINDS
    from spectral_toolkit._affinity.table import KERNELS, default_kernel

    lines = ["| kernel | scope | " + " | ".join(f"`{kind}`" for kind in KINDS) + " | of left *l* and right *r* |"]
    lines.append("|---" * (len(KINDS) + 3) + "|")
    for name, kernel in KERNELS.items():
        cells = [
            "default"
            if any(default_kernel(kind, scope) == name for scope in kernel.scopes)
            else "yes"
            if kind in kernel.kinds
            else ""
            for kind in KINDS
        ]
        lines.append(
            f"| `{name}` | {', '.join(kernel.scopes)} | " + " | ".join(cells) + f" | {_plain(kernel.formula)} |"
        )
    return "\n".join(lines)


def model_table() -> str:
    """Model families, from the table that ``load_model`` reads."""
    from spectral_toolkit._models.families import FAMILIES

    sizes = {
        "own": "its own",
        "interpolated": "its own; others by interpolation, on request",
        "any": "any",
        "square": "any, if trained on a square grid",
    }
    lines = [
        "| family | class in transformers | image sizes | positions | what a capture does |",
        "|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        taken = "depends on the model" if callable(family.sizes) else sizes[family.sizes]
        positions = "rotary" if family.rotary else "added"
        lines.append(f"| {family.label} | `{family.tower}` | {taken} | {positions} | {family.note} |")
    return "\n".join(lines)


def denoiser_table() -> str:
    """Denoisers of diffusers, from the table that ``load_model`` reads."""
    from spectral_toolkit._models.diffusion.families import FAMILIES

    lines = ["| family | class in diffusers | in a pipeline | what is captured |", "|---|---|---|---|"]
    lines += [f"| {line.label} | `{line.tower}` | `{line.component}` | {line.layers} |" for line in FAMILIES]
    return "\n".join(lines)


def region_table() -> str:
    """Ways to make segments, from the table that ``segment`` reads."""
    from spectral_toolkit._analysis.regions import METHODS

    lines = ["| method | what it does | `n_segments` | a number means | options | graph |", "|---|---|---|---|---|---|"]
    for name, line in METHODS.items():
        words, options = (", ".join(f"`{one}`" for one in many) for many in (line.choices, line.options))
        graph = "needed" if line.needs_graph else "not used"
        lines.append(f"| `{name}` | {line.makes} | number, {words} | {line.number} | {options} | {graph} |")
    return "\n".join(lines)


def solver_table() -> str:
    """Ways to solve, from the table that ``solve`` reads."""
    from spectral_toolkit.solvers import SOLVERS

    lines = ["| method | what it does | options |", "|---|---|---|"]
    for name, line in SOLVERS.items():
        lines.append(f"| `{name}` | {line.meaning} | {', '.join(f'`{one}`' for one in line.options)} |")
    return "\n".join(lines)


def score_table() -> str:
    """Scores, from the table that ``pathways`` and ``evaluate`` read."""
    from spectral_toolkit.scores import SCORES

    better = {True: "yes", False: "no", None: "neither"}
    lines = ["| score | of | needs labels | range | higher is better | formula | |", "|---" * 7 + "|"]
    for name, line in SCORES.items():
        of = "eigenvectors" if line.segments is None else "eigenvectors, segments"
        cells = [of, "yes" if line.labelled else "", f"{line.low:g} to {line.high:g}", better[line.higher_is_better]]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {_plain(line.formula)} | {_plain(line.hint)} |")
    return "\n".join(lines)


def layout_table() -> str:
    """Layouts of labelled data sets, from the table that ``datasets.load`` and studies read."""
    from spectral_toolkit.datasets import LAYOUTS

    lines = ["| layout | data set | reads below the root | split | |", "|---" * 5 + "|"]
    for name, line in LAYOUTS.items():
        lines.append(
            f"| `{name}` | {_plain(line.title)} | {_plain(line.files)} | `{line.split}` | {_plain(line.hint)} |"
        )
    return "\n".join(lines)


def view_table() -> str:
    """Views of the explorer, from the table that the explorer and frozen pages read."""
    from spectral_toolkit.views import VIEWS

    lines = ["| view | button | what it shows | settings | needs | on a frozen page |", "|---" * 6 + "|"]
    for name, line in VIEWS.items():
        settings = ", ".join(f"`{one}`" for one in (*line.controls, *(slider.name for slider in line.sliders)))
        page = "no" if line.page is None else f"in {VIEWS[line.tab].title}" if line.tab else "yes"
        needs = ", ".join(f"`{one}`" for one in line.needs)
        lines.append(f"| `{name}` | {_plain(line.title)} | {_plain(line.hint)} | {settings} | {needs} | {page} |")
    return "\n".join(lines)


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


TABLES = {
    "kernels": kernel_table,
    "solvers": solver_table,
    "scores": score_table,
    "layouts": layout_table,
    "views": view_table,
    "models": model_table,
    "denoisers": denoiser_table,
    "regions": region_table,
}


def with_tables(text: str) -> str:
    """The same page with every marked table made again."""
    return filled(text, {name: make() for name, make in TABLES.items()})


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
