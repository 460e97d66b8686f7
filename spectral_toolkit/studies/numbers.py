"""The machine-readable part of a study: one JSON with all numbers, and one zarr store with all eigenvectors beside it.

The JSON holds no time, date, path or name of the machine, so that equal seeds, versions and images give equal bytes
on one machine. On another machine the last digits may differ, and ``arithmetic`` records the reasons.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import zarr

from .._io.outputs import STUDY_FORMAT, whole_store
from .._views.study_record import NumbersRecord, PicturesRecord, SettingsRecord, StudyRecord
from ..errors import StudyError
from .plan import Cell, StudyPlan, arithmetic, code_sha256, versions

SCHEMA = 1
"""Version of the layout of the JSON; raised when a key changes its meaning."""
_PROVENANCE = ("family", "revision", "weights_sha256", "config_sha256", "dtype", "device", "attention", "processor")


def study_record(plan: StudyPlan, numbers: Sequence[NumbersRecord]) -> StudyRecord:
    """Everything that the JSON holds: ``numbers`` belong to ``plan.cells``, in the same order.

    Returns
    -------
    dict
        ``format``, ``schema``; ``study``: the settings; ``provenance``: versions of libraries, hash of the code, and
        how sums are rounded; ``models``, ``pictures``: the models and images used, with hashes; ``cells``: one entry
        per model, set of images, affinity and choice of layers, with ``group`` (its name in the zarr store),
        ``settings``, ``answers`` (one per image, or one with ``image`` null) and ``scores``.
    """
    models: dict[str, dict[str, object]] = {}
    sets: dict[str, PicturesRecord] = {}
    for group in plan.groups:
        facts = group.capture
        models.setdefault(
            group.model.label,
            {
                "label": group.model.label,
                "name": facts["model"],
                **{name: facts[name] for name in _PROVENANCE},
                **({"training": facts["training"]} if "training" in facts else {}),
            },
        )
        opened = group.opened
        images: PicturesRecord = {
            "label": group.pictures.label,
            "n": len(opened.pictures),
            "names": list(opened.pictures.names),
            "sizes": [list(size) for size in opened.pictures.sizes],
            "sha256": opened.pictures.sha256,
            "labels_sha256": opened.labels_sha256,
        }
        if opened.layout:
            images["layout"] = opened.layout
        if opened.categories:
            images["categories"] = list(opened.categories)
        sets.setdefault(group.pictures.label, images)
    names = group_names(plan.cells)
    return {
        "format": STUDY_FORMAT,
        "schema": SCHEMA,
        "study": cast("SettingsRecord", plan.study.record()),
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


def dumped(record: StudyRecord) -> bytes:
    """The record as the bytes of a file; each list is one line, as one number per line would take ten times as much."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    flat = re.compile(r"\[\n\s+((?:[-\d.e+]+|null|true|false)(?:,\n\s+(?:[-\d.e+]+|null|true|false))*)\n\s+\]")
    # No string can look like that: JSON writes its line breaks as \n.
    return (flat.sub(lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]", text) + "\n").encode()


def read_record(path: Path) -> StudyRecord:
    """Read the JSON of a study.

    Raises
    ------
    StudyError
        If it is not the JSON of a study, or comes from a later version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.get("format") != STUDY_FORMAT:
            raise ValueError("it does not begin like the numbers of a study")
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
            f"{str(path)!r} has layout {record['schema']}, but this version reads up to {SCHEMA}: install a newer one."
        )
    return cast("StudyRecord", record)


def group_names(cells: Sequence[Cell]) -> list[str]:
    """Names of the cells' groups in the store: plain letters, whatever the labels contain, and all different."""
    names: list[str] = []
    for cell in cells:
        parts = (cell.model, cell.pictures, cell.affinity.label, cell.choice)
        plain = "__".join(re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-")[:40] or "unnamed" for part in parts)
        same = sum(name == plain or name.startswith(f"{plain}__again") for name in names)
        names.append(f"{plain}__again{same}" if same else plain)
    return names


def write_zarr(stores: Mapping[str, Path], path: Path) -> None:
    """Write one store whose groups are copies of the cells' stores, completely or not at all."""
    with whole_store(path) as store:
        zarr.open_group(store, mode="w")
        for name, cell in stores.items():
            shutil.copytree(cell, store / name)
