"""Errors a user can act on: one sentence naming the value, what was expected and what to do."""

from __future__ import annotations


class SpectralToolkitError(ValueError):
    """Bad input or an impossible request; the message says what to do about it.

    The command line prints the message of any subclass and exits with code 2.
    """


class UnsupportedModelError(SpectralToolkitError):
    """The model loads, but its attention cannot be captured."""


class ModelNotFoundError(SpectralToolkitError):
    """The name is misspelt, gated, or cannot be reached from here."""


class CaptureMemoryError(SpectralToolkitError):
    """The result would not fit in memory; the message carries the number of bytes."""


class StoreError(SpectralToolkitError):
    """A store on disk is damaged, foreign, or belongs to another capture."""


class UnwritableError(StoreError):
    """A result cannot be written: the disk is full, the folder is not ours, or what was begun there was deleted."""


class BundleError(StoreError):
    """A bundle is damaged, too large, of a later version, or none; or something else is where one should go."""


class ActivationsError(SpectralToolkitError):
    """A tree of activations lacks something, or holds values that cannot be used."""


class AffinityError(SpectralToolkitError):
    """The combination of kind, kernel, heads and scope is not offered, or its input is degenerate."""


class SolverError(SpectralToolkitError):
    """The spectral problem as posed has no answer that could be trusted."""


class RegionsError(SpectralToolkitError):
    """Eigenvectors, labels or pictures from which no regions can be made."""


class ComparisonError(SpectralToolkitError):
    """Two answers that are not of the same pictures, or cannot be set beside each other."""


class StudyError(SpectralToolkitError):
    """A study's file that asks for something impossible, or results that are none of a study."""


class LostProcessError(SpectralToolkitError):
    """Of several processes that work together, one has stopped."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, at most 200 characters and without a full stop; or its type.

    Examples
    --------
    >>> first_line(KeyError()), first_line(OSError("No space. Really."))
    ('KeyError', 'No space. Really')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
