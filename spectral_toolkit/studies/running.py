"""Runs a study from beginning to end: cells in the cache are taken from there, and the others are computed in turn."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import xarray as xr

from .._analysis.scores.controls import untrained_tree
from .._analysis.trust import outlying_masks
from .._capture import capture
from .._compute.settings import computing
from .._io.outputs import writable_path, write_whole
from .._models.model import Model
from .._views.study_record import NumbersRecord, StudyRecord
from ..errors import SpectralToolkitError, StoreError, StudyError, UnwritableError
from . import tables
from .cache import Cache, open_answer
from .claim import claimed
from .computing import compute_cell
from .config import Study
from .controls import StudyControls
from .numbers import dumped, study_record, write_zarr
from .plan import Group, StudyPlan, plan_study, threads_of
from .reading import read_study
from .showing import command_line, study_page
from .sources import load_study_model

if TYPE_CHECKING:
    import pandas as pd

Tell = Callable[[str], object]
Made = TypeVar("Made")


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes
    ----------
    record
        The content of the JSON.
    html, json, zarr
        The files written.
    tables
        The CSV and LaTeX files beside them.
    from_cache
        How many of the cells were taken from the cache.
    shown
        How many images of each set the page shows at most.
    cells
        Names of the cells in words, in order.
    """

    record: StudyRecord = field(repr=False)
    html: Path
    json: Path
    zarr: Path
    tables: list[Path] = field(repr=False)
    from_cache: int
    shown: int
    cells: list[str] = field(repr=False)

    def eigenvectors(self, cell: int = 0) -> xr.Dataset:
        """The result of one cell, from the zarr store."""
        return open_answer(self.zarr / self.record["cells"][cell]["group"])

    def to_dataframe(self, of: str = "scores") -> pd.DataFrame:
        """All numbers as a tidy table.

        Parameters
        ----------
        of
            ``"scores"``: one row for each score of each study cell and each of its controls. ``"eigenvalues"``: one row
            for each eigenvector of each image.

        Raises
        ------
        SpectralToolkitError
            If ``of`` is neither.
        """
        return tables.table(self.record, of)

    def to_latex(self) -> str:
        """The main table for a paper, one row for each study cell; it needs the packages booktabs and xcolor."""
        return tables.latex(self.record)


@computing
def run_study(
    config: str | os.PathLike[str] | Mapping[str, object] | Study,
    out: str | os.PathLike[str] = "study.html",
    *,
    overwrite: bool = False,
    progress: bool = True,
    tell: Tell | None = None,
) -> StudyResult:
    """Run a study and write its page, its numbers, its tables and its eigenvectors side by side.

    A run that was interrupted at any moment resumes where it stopped when it is started again, and ends with the same
    bytes: finished cells are kept in the folder ``<name>.cache`` beside the output, each under a hash of everything
    that determines its numbers. Only what has changed since is computed.

    Parameters
    ----------
    config
        Path of a YAML file, the content of such a file as a mapping, or a `Study`.
    out
        The HTML file; ``.json``, ``.tex``, ``-scores.csv``, ``-eigenvalues.csv``, ``.zarr`` and ``.cache`` are written
        beside it under the same name.
    overwrite
        Whether to replace an earlier result of this study, which is recognised by its title, or without a title by its
        models and images. Results of another study are never replaced.
    progress
        Whether to show progress bars.
    tell
        A function that is called with one line for every cell and result.

    Returns
    -------
    StudyResult

    Raises
    ------
    StudyError
        If the study asks for something impossible, results of another study are in the way, or another run is using the
        cache.
    StoreError
        If something else is in the place of a result, or an earlier result is there and ``overwrite`` is False.

    Examples
    --------
    >>> import tempfile
    >>> config = {"models": "scenes", "pictures": {"made": {"scenes": 1}}, "affinities": "vv", "layers": [[0]],
    ...           "n_eigenvectors": 2, "device": "cpu"}
    >>> result = run_study(config, f"{tempfile.mkdtemp()}/study.html", progress=False)
    >>> result.cells
    ['scenes · made · vv · 0']
    """
    study = config if isinstance(config, Study) else read_study(config)
    *outputs, folder = output_paths(out)
    page, numbers_path, store = outputs
    name = Path(config).name if isinstance(config, str | os.PathLike) else "study.yaml"
    with claimed(study, [*outputs, *tables.paths(page)], folder, overwrite=overwrite) as cache:
        plan = plan_study(study)
        numbers, n_cached = compute(plan, cache, progress=progress, tell=tell or (lambda line: None))
        record = study_record(plan, numbers)
        contents = {row["group"]: row["content_sha256"] for row in record["cells"]}
        command = command_line(name, page.name)
        html, shown = study_page(plan, record, _Answers(cache, contents), command=command, name=page.stem)
        write_zarr({group: cache.store(content) for group, content in contents.items()}, store)
        written = {page.with_name(one): text for one, (_, text) in tables.files(record, page.stem).items()}
        for place, text in written.items():
            write_whole(place, text.encode())
        for place in set(tables.paths(page)) - written.keys():
            place.unlink(missing_ok=True)  # of an earlier run, which had scores
        write_whole(page, html.encode())
        write_whole(numbers_path, dumped(record))  # last: where the page exists, the study is complete
        cache.keep_only(set(contents.values()))
    labels = [cell.label for cell in plan.cells]
    return StudyResult(record, page, numbers_path, store, list(written), n_cached, shown, labels)


def compute(
    plan: StudyPlan, cache: Cache, *, progress: bool = True, tell: Tell = lambda line: None
) -> tuple[list[NumbersRecord], int]:
    """Numbers of all cells in order, and how many of them came from the cache."""
    found: dict[str, NumbersRecord] = {}
    for cell in plan.cells:
        if (known := cache.numbers(cell.content_sha256)) is not None:
            found[cell.content_sha256] = known
    n_cells, n_cached = len(plan.cells), sum(cell.content_sha256 in found for cell in plan.cells)
    tell(f"{n_cells} {'cell' if n_cells == 1 else 'cells'}: {n_cached} from the cache, {n_cells - n_cached} to compute")
    with threads_of(plan.study):
        _compute_missing(plan, cache, found, n_cached, progress, tell)
    return [found[cell.content_sha256] for cell in plan.cells], n_cached


def _compute_missing(
    plan: StudyPlan, cache: Cache, found: dict[str, NumbersRecord], done: int, progress: bool, tell: Tell
) -> None:
    n_cells = len(plan.cells)
    loaded: tuple[str, Model | None] = ("", None)
    for group in plan.groups:
        missing = [cell for cell in group.cells if cell.content_sha256 not in found]
        if missing:
            if loaded[0] != group.model.label:
                loaded = ("", None)  # the previous model is freed first, because two may not fit
                loaded = (group.model.label, load_study_model(group.model, plan.study))
            _, model = loaded
            assert model is not None
            activations = _captured(group, plan.study, model, cache, progress)
            outlying = outlying_masks(activations) if "token" in group.quantities else {}
            controls = _controls(group, plan.study, model, activations, cache)
            prepared: dict[tuple[int, int], xr.DataArray] = {}
            for cell in missing:
                content = cell.content_sha256
                if content not in found:
                    neighbours = cache.neighbours(group.activations_sha256)
                    try:
                        eig, numbers = compute_cell(
                            cell, group, plan.study, activations, outlying, neighbours, controls, prepared
                        )
                    except SpectralToolkitError as error:
                        raise StudyError(f"{cell.label}: {error}") from error
                    cache.put(content, eig, numbers)
                    found[content] = numbers
                done += 1
                tell(f"[{done}/{n_cells}] {cell.label}")
        if not plan.study.keep_activations:
            for content in (group.activations_sha256, group.untrained_sha256):
                cache.forget_activations(content)


def _controls(group: Group, study: Study, model: Model, activations: xr.DataTree, cache: Cache) -> StudyControls | None:
    """The controls of a group; None where none are asked for, or nothing is labelled."""
    if not study.controls or not (study.scores or study.evaluate) or group.opened.labels is None:
        return None
    store = cache.activations(group.untrained_sha256)

    def untrained() -> tuple[xr.DataTree | None, str]:
        return untrained_tree(activations, model, study.seed, store=store, batch_size=study.batch_size)

    neighbours = cache.neighbours(group.untrained_sha256)
    return StudyControls(study, activations, lambda: _made_again(store, untrained), neighbours)


def _captured(group: Group, study: Study, model: Model, cache: Cache, progress: bool) -> xr.DataTree:
    """Activations of a group, streamed to the cache, where an interrupted capture is resumed."""
    store = cache.activations(group.activations_sha256)

    def run() -> xr.DataTree:
        return capture(
            model,
            group.opened.pictures,
            layers=list(group.layers),
            quantities=group.quantities,
            size=study.size,
            batch_size=study.batch_size,
            seed=study.seed,
            store=store,
            progress=progress,
        )

    return _made_again(store, run)


def _made_again(store: Path, run: Callable[[], Made]) -> Made:
    """Run a capture into a store, and once more without the store where that cannot be used."""
    store.parent.mkdir(parents=True, exist_ok=True)
    try:
        return run()
    except UnwritableError:
        raise  # starting again would not free any space
    except StoreError:
        # The store is ours, whenever it was made, and can be made again.
        shutil.rmtree(store, ignore_errors=True)
        return run()


def output_paths(out: str | os.PathLike[str]) -> tuple[Path, Path, Path, Path]:
    """Page, numbers, eigenvectors and cache of a study.

    Raises
    ------
    StudyError
        If the name is that of a folder, or has another ending.
    """
    page = writable_path(out, "out", error=StudyError)
    if page.suffix.lower() not in (".html", ".htm") or page.is_dir():
        raise StudyError(
            f"out={str(out)!r} is not a name for a page: give one that ends in .html, such as 'study.html'; .json and "
            ".zarr are written beside it."
        )
    return page, page.with_suffix(".json"), page.with_suffix(".zarr"), page.with_suffix(".cache")


class _Answers(Mapping[str, xr.Dataset]):
    """Eigenvectors by the name of their group, read one at a time because all together might not fit."""

    def __init__(self, cache: Cache, contents: Mapping[str, str]):
        self._cache, self._contents = cache, contents

    def __getitem__(self, name: str) -> xr.Dataset:
        return self._cache.eigenvectors(self._contents[name])

    def __iter__(self):
        return iter(self._contents)

    def __len__(self) -> int:
        return len(self._contents)
