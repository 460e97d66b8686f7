"""The machine-readable half of a study: one JSON of all numbers, and one zarr store of all eigenvectors beside it.

The JSON holds no time, date, path or name of the machine, so that equal seeds, versions and pictures give equal bytes
on one machine; on another the last digits may differ, and ``arithmetic`` says by what.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zarr

from .._io.outputs import STUDY_FORMAT, whole_store
from ..errors import StudyError
from .plan import Cell, StudyPlan, arithmetic, code_sha256, versions

SCHEMA = 1
"""Version of the layout of the JSON; raised when a key changes its meaning."""
_PROVENANCE = ("family", "revision", "weights_sha256", "config_sha256", "dtype", "device", "attention", "processor")


def study_record(plan: StudyPlan, numbers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything the JSON holds: ``numbers`` are those of ``plan.cells``, in their order.

    Returns
    -------
    dict
        ``format``, ``schema``; ``study``: the settings; ``provenance``: versions of libraries, hash of the code, and
        how sums are rounded; ``models``, ``pictures``: what was used, with hashes; ``cells``: one entry per model, set
        of pictures, affinity and choice of layers, with ``group`` (its name in the zarr store), ``settings``,
        ``answers``
        (one per picture, or one with ``image`` null) and ``scores``.
    """
    models, sets = {}, {}
    for group in plan.groups:
        facts = group.capture
        models.setdefault(
            group.model.label,
            {"label": group.model.label, "name": facts["model"], **{name: facts[name] for name in _PROVENANCE}},
        )
        opened = group.opened
        sets.setdefault(
            group.pictures.label,
            {
                "label": group.pictures.label,
                "n": len(opened.pictures),
                "names": list(opened.pictures.names),
                "sizes": [list(size) for size in opened.pictures.sizes],
                "sha256": opened.pictures.sha256,
                "labels_sha256": opened.labels_sha256,
            },
        )
    names = group_names(plan.cells)
    return {
        "format": STUDY_FORMAT,
        "schema": SCHEMA,
        "study": plan.study.record(),
        "provenance": {"versions": versions(), "code_sha256": code_sha256(), "arithmetic": arithmetic(plan.study)},
        "models": list(models.values()),
        "pictures": list(sets.values()),
        "cells": [
            {
                "model": cell.model,
                "pictures": cell.pictures,
                "affinity": cell.affinity.label,
                "layers": cell.choice,
                "group": name,
                "content_sha256": cell.content_sha256,
                **found,
            }
            for cell, name, found in zip(plan.cells, names, numbers, strict=True)
        ],
    }


def dumped(record: Mapping[str, Any]) -> bytes:
    """The record as the bytes of a file; one number a line would make it ten times as long, so lists stay on theirs."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    flat = re.compile(r"\[\n\s+((?:[-\d.e+]+|null|true|false)(?:,\n\s+(?:[-\d.e+]+|null|true|false))*)\n\s+\]")
    # Text cannot look like that: JSON writes its line breaks as \n.
    return (flat.sub(lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]", text) + "\n").encode()


def read_record(path: Path) -> dict[str, Any]:
    """Read the JSON of a study.

    Raises
    ------
    StudyError
        If it is none, or of a later version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.get("format") != STUDY_FORMAT:
            raise ValueError("it does not begin as the numbers of a study do")
        if not isinstance(record.get("schema"), int) or not all(
            isinstance(record.get(name), kind)
            for name, kind in (
                ("cells", list),
                ("models", list),
                ("pictures", list),
                ("study", dict),
                ("provenance", dict),
            )
        ):
            raise ValueError("parts of it are missing")
    except FileNotFoundError as error:
        raise StudyError(f"There is no file {str(path)!r}: give the JSON that an earlier study wrote.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(
            f"{str(path)!r} holds no numbers of a study ({error}): give the JSON that an earlier study wrote."
        ) from error
    if record["schema"] > SCHEMA:
        raise StudyError(
            f"{str(path)!r} has layout {record['schema']}, and this version reads up to {SCHEMA}: install a newer one."
        )
    return record


def group_names(cells: Sequence[Cell]) -> list[str]:
    """Names of the cells' groups in the store: plain letters, whatever labels say, and no two alike."""
    names: list[str] = []
    for cell in cells:
        parts = (cell.model, cell.pictures, cell.affinity.label, cell.choice)
        plain = "__".join(re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-")[:40] or "unnamed" for part in parts)
        same = sum(name == plain or name.startswith(f"{plain}__again") for name in names)
        names.append(f"{plain}__again{same}" if same else plain)
    return names


def write_zarr(stores: Mapping[str, Path], path: Path) -> None:
    """One store whose groups are copies of the cells' stores, whole or not at all."""
    with whole_store(path) as store:
        zarr.open_group(store, mode="w")
        for name, cell in stores.items():
            shutil.copytree(cell, store / name)
