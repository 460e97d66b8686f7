"""The errors that a user can act on. Each is one sentence that names the value, what was expected and what to do."""

from __future__ import annotations


class SpectralToolkitError(ValueError):
    """The input is bad or the request is impossible; the message says what to do about it.

    The command line prints the message of any subclass and exits with code 2.
    """


class UnsupportedModelError(SpectralToolkitError):
    """The model loads, but its attention cannot be captured."""


class ModelNotFoundError(SpectralToolkitError):
    """The model's name is misspelt, the model is gated, or it cannot be reached from this machine."""


class CaptureMemoryError(SpectralToolkitError):
    """The result would not fit in memory; the message carries the number of bytes."""


class DeviceMemoryError(SpectralToolkitError):
    """A computation does not fit into the memory of its device; the message carries what torch says of it."""


class StoreError(SpectralToolkitError):
    """A store on disk is damaged, was not written by this package, or belongs to another capture."""


class UnwritableError(StoreError):
    """A file cannot be written: the disk is full, the folder may not be written to, or a partial file was deleted."""


class BundleError(StoreError):
    """A file is not a bundle, or a bundle is damaged, too large, from a later version, or would replace a file."""


class ActivationsError(SpectralToolkitError):
    """A tree of activations lacks something, or holds values that cannot be used."""


class AffinityError(SpectralToolkitError):
    """The combination of kind, kernel, heads and scope is not offered, or its input is degenerate."""


class SolverError(SpectralToolkitError):
    """The spectral problem as posed has no result that could be trusted."""


class RegionsError(SpectralToolkitError):
    """No regions can be made from these eigenvectors, labels or images."""


class ComparisonError(SpectralToolkitError):
    """Two results are not of the same images, or cannot be compared."""


class StudyError(SpectralToolkitError):
    """A study file asks for something impossible, or a folder does not hold the results of a study."""


class DatasetError(SpectralToolkitError):
    """A labelled data set on the disk lacks a file, or a label map is not what its layout defines."""


class LostProcessError(SpectralToolkitError):
    """One of several processes that work together has stopped."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 200 characters and without a full stop, or else its type.

    Examples
    --------
    >>> first_line(KeyError()), first_line(OSError("No space. Really."))
    ('KeyError', 'No space. Really')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
