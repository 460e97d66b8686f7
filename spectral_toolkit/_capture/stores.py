"""A capture streamed to a zarr store that can be interrupted, resumed and trusted.

Every array is chunked by image, uncompressed (activations hardly compress), and carries a checksum per chunk, so the
size of every file is known beforehand and damage is noticed. Progress is counted in batches: rounding depends on which
images share a batch, so an interrupted batch is computed again as a whole, and the store ends up with the same bytes as
one that was never interrupted. While a capture is unfinished, the array ``_progress`` in the root says which batches
are complete; it is removed at the end.

Several processes share one store: the first creates and finishes it, each writes the files of its own batches, and a
process that resumes a store takes its share of what is left. As the batches are the same, so are the bytes.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import EllipsisType
from typing import cast

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec

from .._compute import processes
from .._io.activations import names_array
from .._io.images import IMAGE_HASH
from .._io.outputs import beside, remove_remains, unwritable, writable_path
from ..errors import StoreError, UnwritableError, first_line
from .plan import FORMAT, ArraySpec, Plan, differences

_PROGRESS = "_progress"
_CHECKSUM_BYTES = 4
_CHECKED_BYTES = 2**30
"""When a store is opened, every file is examined, and this many bytes are read to verify checksums; others on use."""
_CIRCUMSTANCES = ("device", "attention", "versions")
"""What may differ between a finished store and this session; not for an unfinished one, whose parts would differ."""


_NEVER_ZERO = ("image", IMAGE_HASH, "original_height", "original_width", "box_bottom", "box_right", "special")
"""Coordinates that are neither zero nor empty anywhere."""


class ZarrSink:
    """Arrays in a zarr store."""

    def __init__(self, path: Path, plan: Plan):
        self._path, self._plan = path, plan
        self._root = zarr.open_group(path, mode="r+", use_consolidated=False)
        self._batch = slice(0, 0)
        self._pixels: np.ndarray | None = None
        self._hashes = names_array([])
        self._buffers = {
            (layer, name): np.empty((plan.batch_size, *spec.shape), spec.dtype)
            for layer in plan.layers
            for name, spec in plan.arrays(layer).items()
        }
        done = self._done()
        left = [batch for batch, ready in zip(plan.batches, done, strict=True) if not ready]
        shares = [left[processes.share_of(len(left), rank)] for rank in range(processes.world_size())]
        self.waiting: Sequence[slice] = shares[processes.rank()]
        # One process writes what a layer has besides its arrays, and no process reports a batch before that is there.
        self._describes = next((rank for rank, share in enumerate(shares) if share), 0) == processes.rank()
        self._all_described = not left

    @classmethod
    def open(cls, store: str | os.PathLike[str], plan: Plan) -> ZarrSink:
        """Create a store, or resume one that holds the beginning of this same capture.

        Raises
        ------
        StoreError
            If something else is there, or the store is damaged.
        """
        path = writable_path(store, "store")
        if processes.rank() == 0:
            try:
                if path.exists() and not (path.is_dir() and not any(path.iterdir())):
                    _check(path, plan)
                    remove_remains(path.parent)
                    _remove_partials(path)
                else:
                    _create(path, plan)
            except OSError as error:
                raise unwritable(path, error) from error
        processes.barrier()
        if not path.is_dir():
            raise StoreError(
                f"The store {str(path)!r} was made by rank 0 and cannot be seen by rank {processes.rank()}: give a "
                "folder that all machines share."
            )
        try:
            sink = cls(path, plan)
        except (OSError, ValueError, KeyError) as error:
            raise _damaged(path, first_line(error)) from error
        processes.barrier()  # no process writes before all have seen what is left
        if not sink.waiting:
            sink._end()
        return sink

    def begin(self, batch: slice, pixels: np.ndarray, hashes: Sequence[str]) -> None:
        self._batch, self._pixels, self._hashes = batch, pixels, names_array(hashes)

    def target(self, layer: str, name: str) -> np.ndarray:
        return self._buffers[layer, name][: self._batch.stop - self._batch.start]

    def describe(self, layer: str, scale: float, bias: np.ndarray | None) -> None:
        with self._writing():
            group = self._root[layer]
            assert isinstance(group, zarr.Group)
            if "scale" in group.attrs or not self._describes:
                return
            if bias is not None:
                spec = self._plan.bias(layer)
                _create_array(group, "attention_bias", spec.shape, spec.shape, spec)[...] = bias
            group.attrs["scale"] = scale  # last: it says that the layer has been described

    def commit(self) -> None:
        assert self._pixels is not None
        with self._writing():
            _write(self._root, "pixels", self._batch, self._pixels)
            if IMAGE_HASH in self._root:  # a store that an earlier version began has none
                _write(self._root, IMAGE_HASH, self._batch, self._hashes)
            for layer, name in self._buffers:
                _write(self._root, f"{layer}/{name}", self._batch, self.target(layer, name))
            self._wait_for_descriptions()
            self._report_batch()
            if not self.waiting:
                self._end()

    def _report_batch(self) -> None:
        number = self._batch.start // self._plan.batch_size
        try:
            _write(self._root, _PROGRESS, slice(number, number + 1), np.ones(1, np.uint8))
            self.waiting = [batch for batch in self.waiting if batch != self._batch]
        except KeyError:
            if not _is_there(self._path):
                raise
            # The same capture was started twice: the other run has finished the store, with the same bytes.
            self.waiting = []

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Report what the file system refuses as one sentence, and leave nothing half written behind."""
        try:
            yield
        except (OSError, KeyError, ValueError) as error:  # if a store is gone, zarr says that an array is missing
            if isinstance(error, StoreError):
                raise
            if not _is_there(self._path):
                raise UnwritableError(
                    f"The store {str(self._path)!r} was deleted or moved while the capture wrote to it: remove what is "
                    "left there, and capture again."
                ) from error
            _remove_partials(self._path)
            if not isinstance(error, OSError):
                raise
            raise UnwritableError(
                f"The store {str(self._path)!r} cannot be written ({error.strerror or first_line(error)}): make room "
                "there, and run the same capture again, which resumes where it stopped."
            ) from error

    def tree(self) -> xr.DataTree:
        with _library_warnings():
            tree = xr.open_datatree(self._path, engine="zarr", chunks=None)
        # A store lists its groups by name: they are put into the order of depth.
        children = {layer: cast(xr.DataTree, tree[layer]).copy() for layer in self._plan.layers}
        return xr.DataTree(tree.to_dataset(inherit=False), children=children)

    def _done(self) -> np.ndarray:
        if _PROGRESS not in self._root:
            return np.ones(len(self._plan.batches), dtype=bool)
        return np.asarray(cast(zarr.Array, self._root[_PROGRESS])[...]) == 1

    def _wait_for_descriptions(self) -> None:
        if not self._all_described:
            processes.barrier(patient=True)
            self._all_described = True

    def _end(self) -> None:
        """Finish the share of this process; called once by each process, when nothing of its share is left."""
        self._wait_for_descriptions()
        processes.barrier(patient=True)
        if processes.rank() == 0:
            self._finish()
        processes.barrier()

    def _finish(self) -> None:
        """Remove the progress and write all metadata into one file; this may be interrupted and called again."""
        progress = self._path / _PROGRESS
        if progress.exists():
            with beside(self._path) as away:
                progress.rename(away / _PROGRESS)  # in one step, so that half of it is never visible
        if (
            self._root.store_path.store.read_only
            or zarr.open_group(self._path, mode="r").metadata.consolidated_metadata
        ):
            return
        with _library_warnings():
            zarr.consolidate_metadata(self._path)


def _create(path: Path, plan: Plan) -> None:
    """Create the empty store next to its place and move it there, so that half a store is never visible."""
    with beside(path) as making:
        # The hashes are known when the images have been read, and written with them.
        root_node = plan.root(hashes=names_array([""] * len(plan.pictures)))
        nodes = {"/": root_node, **{layer: plan.node(layer) for layer in plan.layers}}
        by_image = {"/": {IMAGE_HASH: {"chunks": (1,)}}}
        with _library_warnings():
            xr.DataTree.from_dict(nodes).to_zarr(making / "store", zarr_format=3, consolidated=False, encoding=by_image)
        root = zarr.open_group(making / "store", mode="r+", use_consolidated=False)
        _create_array(root, "pixels", *_by_image(plan, plan.pixels))
        for layer in plan.layers:
            group = cast(zarr.Group, root[layer])
            for name, spec in plan.arrays(layer).items():
                _create_array(group, name, *_by_image(plan, spec))
        n_batches = len(plan.batches)
        _create_array(root, _PROGRESS, (n_batches,), (1,), ArraySpec(("batch",), (n_batches,), np.dtype("uint8")))
        if path.exists():
            path.rmdir()
        (making / "store").rename(path)


def _by_image(plan: Plan, spec: ArraySpec) -> tuple[tuple[int, ...], tuple[int, ...], ArraySpec]:
    whole = ArraySpec(("image", *spec.dims), spec.shape, spec.dtype)
    return (len(plan.pictures), *spec.shape), (1, *spec.shape), whole


def _create_array(
    group: zarr.Group, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], spec: ArraySpec
) -> zarr.Array:
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype=spec.dtype,
        compressors=[Crc32cCodec()],
        filters=None,
        # A chunk that is missing must not read as plausible numbers.
        fill_value=np.nan if spec.dtype.kind == "f" else 0,
        dimension_names=spec.dims,
        config={"write_empty_chunks": True},
        overwrite=True,
    )


def _write(root: zarr.Group, name: str, where: slice, values: np.ndarray) -> None:
    # By default zarr omits chunks that hold nothing but the fill value, but every file must exist.
    array = cast(zarr.Array, root[name]).with_config({"write_empty_chunks": True})
    try:
        array[where] = values
    except FileNotFoundError:  # the other of two equal runs took our file for a leftover
        array[where] = values


def _is_there(path: Path) -> bool:
    return (path / "zarr.json").is_file()


def _remove_partials(path: Path) -> None:
    """Remove files that zarr had not yet moved to their places when a process was killed or the disk was full."""
    for partial in path.rglob("*.partial"):
        partial.unlink(missing_ok=True)


def _check(path: Path, plan: Plan) -> None:
    """Raise ``StoreError`` unless ``path`` holds this capture, complete or unfinished, and undamaged."""
    try:
        root = zarr.open_group(path, mode="r", use_consolidated=False)
        found = dict(root.attrs)
    except Exception as error:
        # What zarr raises for a damaged or foreign folder has no common base class.
        if (path / "zarr.json").exists():
            raise _damaged(path, first_line(error)) from error
        raise _foreign(path) from error
    if found.get("format") != FORMAT:
        raise _foreign(path)
    unfinished = is_unfinished(path)
    ignoring = () if unfinished else _CIRCUMSTANCES
    if found.get("pictures_sha256") != plan.attrs["pictures_sha256"]:
        raise StoreError(
            f"The store {str(path)!r} holds a capture of other images: give those that it was made with (all of them, "
            "in the same order), or another store."
        )
    if other := differences(found, plan.attrs, ignoring):
        raise StoreError(
            f"The store {str(path)!r} holds another capture: {'; '.join(other)}. Give the settings that it was made "
            "with, or another store."
        )
    if n_hooks := plan.attrs["user_hooks"]:
        raise StoreError(
            f"The store {str(path)!r} was made with forward hooks on the model, and it cannot be verified that its "
            f"{n_hooks} hooks are the same now: remove them, or choose another store."
        )
    try:
        problem = _problem(path, root, plan)
    except Exception as error:
        problem = first_line(error)
    if problem:
        raise _damaged(path, problem)


def is_unfinished(path: Path) -> bool:
    """Tell whether one of our stores holds a capture that was interrupted and can be resumed."""
    return (path / _PROGRESS).exists()


def check_opened(path: Path, tree: xr.DataTree) -> None:
    """Check a store that was opened for reading, as far as possible without reading its values; read its coordinates.

    Raises
    ------
    StoreError
        If a layer is missing, or a coordinate is missing or damaged.
    """
    if tree.attrs.get("format") != FORMAT:
        return  # assembled by other means
    if lacking := [name for name in json.loads(tree.attrs.get("layers", "[]")) if name not in tree.children]:
        raise StoreError(
            f"The store {str(path)!r} lacks {len(lacking)} of the layers that it was captured with, the first of them "
            f"{lacking[0]!r}: capture again to another folder; or, if they were left out on purpose, remove them from "
            "its attribute 'layers' too."
        )
    for node in tree.subtree:
        for name, coordinate in node.coords.items():
            try:
                values = coordinate.variable.load().values  # loading the coordinate would load its own coordinates, too
            except Exception as error:  # zarr, xarray and numcodecs each raise their own kinds
                raise _damaged(path, f"{name} cannot be read: {first_line(error)}") from error
            # A missing chunk is read as zeros, or as empty names. (The affinity checks the positions of patches.)
            if name in _NEVER_ZERO and not np.all(values.astype(bool)):
                raise _damaged(path, f"{node.path.strip('/') or 'its root'} has no {name} of its own")


def _problem(path: Path, root: zarr.Group, plan: Plan) -> str:
    """Describe what is wrong with one of our stores, or return an empty text."""
    batches = plan.batches
    ready = np.ones(len(batches), dtype=bool)
    if is_unfinished(path):
        ready = np.asarray(cast(zarr.Array, root[_PROGRESS])[...]) == 1
        if ready.shape != (len(batches),):
            return f"{_PROGRESS} has shape {ready.shape}, expected {(len(batches),)}"
    images = [i for batch, done in zip(batches, ready, strict=True) if done for i in range(batch.start, batch.stop)]
    for place, group, node in [
        ("", root, plan.root()),
        *((f"{layer}/", cast(zarr.Group, root[layer]), plan.node(layer)) for layer in plan.layers),
    ]:
        for name, expected in node.coords.items():
            found = np.asarray(cast(zarr.Array, group[str(name)])[...])
            # A missing chunk is read as zeros, or as empty names.
            if found.tolist() != expected.values.tolist():
                return f"{place}{name} is not that of these images and layers"

    if IMAGE_HASH in root and not all(np.asarray(cast(zarr.Array, root[IMAGE_HASH])[...])[images]):
        return f"{IMAGE_HASH} is missing"
    files: list[tuple[zarr.Array, tuple[int | EllipsisType], Path, int]] = []
    expected = {"pixels": plan.pixels}
    expected |= {f"{layer}/{name}": spec for layer in plan.layers for name, spec in plan.arrays(layer).items()}
    for name, spec in expected.items():
        array = cast(zarr.Array, root[name])
        if array.shape != (len(plan.pictures), *spec.shape) or array.dtype != spec.dtype:
            return f"{name} has shape {array.shape} and type {array.dtype}"
        for image in images:
            chunk = path / name / "c" / "/".join(map(str, (image, *([0] * len(spec.shape)))))
            files.append((array, (image,), chunk, spec.nbytes))
    for layer in plan.layers:
        group = cast(zarr.Group, root[layer])
        if images and "scale" not in group.attrs:
            return f"layer {layer!r} has no scale"
        shape = plan.shapes[layer]
        if shape.biased and not shape.biased_by_image and "attention_bias" in group:
            array, spec = cast(zarr.Array, group["attention_bias"]), plan.bias(layer)
            chunk = path / layer / "attention_bias" / "c" / "/".join(["0"] * len(spec.shape))
            files.append((array, (...,), chunk, spec.nbytes))
    for _, _, chunk, nbytes in files:
        if not chunk.is_file():
            return f"{chunk.relative_to(path)} is missing"
        if chunk.stat().st_size != nbytes + _CHECKSUM_BYTES:
            return f"{chunk.relative_to(path)} has {chunk.stat().st_size} bytes, expected {nbytes + _CHECKSUM_BYTES}"
    step = max(1, -(-sum(nbytes for *_, nbytes in files) // _CHECKED_BYTES))
    for array, where, chunk, _ in files[::step]:
        try:
            array[where]
        except ValueError as error:
            return f"{chunk.relative_to(path)}: {first_line(error)}"
    return ""


@contextmanager
def _library_warnings() -> Iterator[None]:
    """Suppress two warnings: zarr's, that consolidated metadata is not standard yet, and xarray's if it is missing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Cc]onsolidated metadata.*")
        yield


def _foreign(path: Path) -> StoreError:
    return StoreError(
        f"{str(path)!r} exists and is not a store of activations written by spectral_toolkit: choose another store; "
        "nothing was touched."
    )


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"The store {str(path)!r} is damaged ({reason}): delete it and capture again, or choose another store; nothing "
        "was touched."
    )
