"""Unfinished gradient descents on disk: one file, replaced as a whole, that records which problem it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from .._io.outputs import beside, placed, writable_path
from ..errors import SolverError, first_line


def fingerprint(problem: object, tensors: Iterable[Tensor]) -> str:
    """Hash settings and numbers: another problem, or the same one with other activations, has another hash."""
    digest = hashlib.sha256(repr(problem).encode())
    for tensor in tensors:
        digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Checkpoint:
    """The entry of one image (or of the whole dataset) in a checkpoint file.

    Parameters
    ----------
    path
        The file, which is created when it is first written.
    name
        The name of the entry.
    problem
        The fingerprint of the problem; an entry of another problem is refused.
    every
        The number of steps between two writes.
    """

    def __init__(self, path: str | Path, name: str, problem: str, every: int) -> None:
        self.path = writable_path(path, "checkpoint", error=SolverError)
        self.name = name
        self.problem = problem
        self.every = every

    def read(self) -> dict | None:
        """Return what was written for this entry, or None.

        Raises
        ------
        SolverError
            If the file is not a checkpoint, or belongs to another problem.
        """
        entry = self._entries().get(self.name)
        if entry is None:
            return None
        if entry["problem"] != self.problem:
            raise SolverError(
                f"checkpoint={str(self.path)!r} belongs to another problem (other activations, layers, weights or "
                "options): give another file, or the settings that it was made with."
            )
        return entry["state"]

    def write(self, state: dict) -> None:
        """Replace the entry; if the process stops meanwhile, the file stays as it was.

        Raises
        ------
        SolverError
            If the file cannot be written.
        """
        entries = {**self._entries(), self.name: {"problem": self.problem, "state": state}}
        with placed(self.path, failed=self._unwritable) as new:
            try:
                torch.save({"spectral_toolkit": 1, "entries": entries}, new)
            except RuntimeError as error:  # how torch says that a disk is full
                raise OSError(first_line(error)) from error

    def try_place(self) -> None:
        """Refuse a place where nothing can be written, before there is anything to lose.

        Raises
        ------
        SolverError
        """
        try:
            with beside(self.path) as making:
                (making / "part").touch()
        except OSError as error:
            raise self._unwritable(self.path, error) from error

    @staticmethod
    def _unwritable(path: Path, error: OSError) -> SolverError:
        reason = error.strerror or first_line(error)
        return SolverError(
            f"checkpoint={str(path)!r} cannot be written ({reason}): make room there, or give another file."
        )

    def _entries(self) -> dict:
        if not self.path.exists():
            return {}
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            return content["entries"]
        except Exception as error:  # whatever torch or pickle raise for a damaged or foreign file
            raise SolverError(
                f"checkpoint={str(self.path)!r} cannot be read as a checkpoint of the gradient solver: give another "
                "file, or remove this one to begin again."
            ) from error
