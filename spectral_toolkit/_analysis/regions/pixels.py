"""From patches to pixels: the colours of the pixels decide where the borders of segments and masks lie."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import xarray as xr
from jaxtyping import Int, UInt8
from scipy import ndimage

from ..._compute.settings import computing
from ..._io.grids import on_grid
from ..._io.pairing import analysed_box, analysed_part, image_hashes, paired_pictures
from ...errors import RegionsError
from .adjacency import connected_parts
from .arguments import within
from .embedding import listed

MIDDLE = 0.8
"""Where a part is too thin for the margin, pixels this much of its largest depth inside it are kept."""


@computing
def refine(segments: xr.DataArray, images: object, *, margin: float = 0.5, beta: float = 500.0) -> xr.DataArray:
    """Refine segments or masks from patches to pixels.

    Every pixel begins with the label of the patch that its centre lies in. Pixels deeper than ``margin`` inside their
    segment keep it, and thin segments keep their middle. The others take the label from which a random walk, which
    avoids steps between unlike colours, most likely comes (Grady 2006; scikit-image). Masks of instances are refined
    one by one, inside against outside.

    Parameters
    ----------
    segments
        Integers ``(image, y, x)`` from :func:`spectral_toolkit.segment`, or masks ``(image, instance, y, x)`` from
        :func:`spectral_toolkit.instances`.
    images
        The images, as :func:`spectral_toolkit.load_images` takes them, or the tree of activations, whose pixels are
        what the model saw. They are found by name, or by position in the case of arrays, which have no names; only the
        part that was analysed is used. All must have the same size.
    margin
        Width, in patches, of the band inside every border that is decided again. With 0, labels are only enlarged.
    beta
        How strongly the walk avoids edges. The default, like that of ``margin``, is the best for segments of 24 scenes.

    Returns
    -------
    xarray.DataArray
        ``(image, y_px, x_px)`` or ``(image, instance, y_px, x_px)``, of the type of ``segments`` and with its
        coordinates except those over patches. ``attrs["notes"]`` names images that were only enlarged: those with fewer
        pixels than patches along an axis, and those of one colour.

    Raises
    ------
    RegionsError
        If the images do not fit the segments, have different sizes, or an argument is out of range.

    References
    ----------
    Grady, IEEE Trans. Pattern Anal. Mach. Intell. 28 (2006) 1768.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> picture = np.zeros((1, 4, 8, 3), dtype=np.uint8)
    >>> picture[:, :, 3:] = 200  # the edge lies one pixel beside the border of the patches
    >>> cells = xr.DataArray([[[0, 1]]], dims=("image", "y", "x"))
    >>> refine(cells, picture).values[0, 0].tolist()
    [0, 0, 0, 1, 1, 1, 1, 1]
    """
    segments = _checked(segments)
    margin, beta = within("margin", margin, least=0, most=1e6), within("beta", beta, least=0, most=1e9)
    masks = segments.dims[1] == "instance"
    values = segments.to_numpy()
    refined: np.ndarray | None = None
    enlarged: list[str] = []
    names = _names(segments)
    for index, pixels in enumerate(_pictures(segments, names, images)):
        if refined is None:
            refined = np.zeros((*values.shape[:-2], *pixels.shape[:2]), dtype=values.dtype)
        elif refined.shape[-2:] != pixels.shape[:2]:
            raise RegionsError(
                f"Image {names[index]!r} has {pixels.shape[0]}x{pixels.shape[1]} pixels, but {names[0]!r} has "
                f"{refined.shape[-2]}x{refined.shape[-1]}: give the tree of activations, whose images have one size, "
                "or refine one image at a time."
            )
        too_few = pixels.shape[0] < values.shape[-2] or pixels.shape[1] < values.shape[-1]
        rough = too_few or not np.ptp(pixels, axis=(0, 1)).any()
        if rough:
            enlarged.append(names[index])
        for label_map, out in (
            zip(values[index], refined[index], strict=True) if masks else [(values[index], refined[index])]
        ):
            found = enlarge(label_map.astype(np.int64), pixels.shape[:2])
            out[:] = found if rough else walk(found, pixels, label_map.shape, margin, beta)
    if refined is None:
        raise RegionsError("The segments hold no image: give at least one.")
    notes = [str(segments.attrs.get("notes", ""))]
    if enlarged:
        notes.append(f"Only enlarged, because of a single colour or fewer pixels than patches: {listed(enlarged)}.")
    return xr.DataArray(
        refined,
        {name: c.variable for name, c in segments.coords.items() if not {"y", "x"} & set(c.dims)},
        (*segments.dims[:-2], "y_px", "x_px"),
        name=segments.name,
        attrs={
            **segments.attrs,
            "refined": "random_walker",
            "margin": margin,
            "beta": beta,
            "notes": " ".join(note for note in notes if note),
        },
    )


def enlarge(labels: Int[np.ndarray, "y x"], size: tuple[int, int]) -> Int[np.ndarray, "y_px x_px"]:
    """Give every pixel the label of the patch in which its centre lies.

    Examples
    --------
    >>> enlarge(np.array([[1, 2, 3]]), (1, 5)).tolist()
    [[1, 1, 2, 3, 3]]
    """
    return on_grid(labels, size)


def walk(
    labels: Int[np.ndarray, "y_px x_px"],
    pixels: UInt8[np.ndarray, "y_px x_px 3"],
    grid: tuple[int, int],
    margin: float,
    beta: float,
) -> Int[np.ndarray, "y_px x_px"]:
    """Decide the pixels within ``margin`` patches of a border by random walks from the others."""
    known, codes = np.unique(labels, return_inverse=True)
    codes = codes.reshape(labels.shape)
    seeds = np.where(certain(codes, grid, margin), codes + 1, 0)
    if len(known) == 1 or (seeds > 0).all():
        return labels
    from skimage.segmentation import random_walker  # this takes a second to load, and only this function needs it

    with warnings.catch_warnings():
        # Probabilities can be a little outside 0 and 1, as the iteration stops early; only their order matters.
        warnings.filterwarnings("ignore", message="The probability range is outside", category=UserWarning)
        found = random_walker(pixels / 255.0, seeds, beta=beta, mode="cg_j", channel_axis=-1)
    return known[np.asarray(found) - 1]


def certain(codes: Int[np.ndarray, "y_px x_px"], grid: tuple[int, int], margin: float) -> np.ndarray:
    """Return the pixels at least ``margin`` patches inside their segment, and the middle of each connected part."""
    sides = tuple(cells / pixels for cells, pixels in zip(grid, codes.shape, strict=True))
    depth = np.full(codes.shape, np.inf)
    for code in np.unique(codes):
        inside = codes == code
        if not inside.all():
            # The distance is to the border, which lies half a pixel before the nearest pixel outside.
            distance = ndimage.distance_transform_edt(inside, sampling=sides)
            depth[inside] = np.asarray(distance)[inside] - min(sides) / 2
    parts = connected_parts(codes)
    deepest = np.asarray(ndimage.maximum(depth, parts, np.arange(parts.max() + 1)))
    return depth >= np.minimum(margin, MIDDLE * deepest)[parts]


def _checked(segments: object) -> xr.DataArray:
    for dims, kinds in ((("image", "y", "x"), "iu"), (("image", "instance", "y", "x"), "b")):
        if isinstance(segments, xr.DataArray) and set(segments.dims) == set(dims) and segments.dtype.kind in kinds:
            return segments.transpose(*dims)
    found = type(segments).__name__
    if isinstance(segments, xr.DataArray):
        found += f" of {segments.dtype} over {', '.join(map(str, segments.dims))}"
    raise RegionsError(
        f"segments are a {found}: expected integers (image, y, x), as st.segment returns, or booleans (image, "
        "instance, y, x), as st.instances does."
    )


def _names(segments: xr.DataArray) -> list[str]:
    if "image" in segments.coords:
        return [str(name) for name in segments["image"].values]
    return [f"image_{index}" for index in range(segments.sizes["image"])]


def _pictures(segments: xr.DataArray, names: list[str], images: object) -> Iterator[np.ndarray]:
    """Iterate over the analysed part of every image."""
    for index, pixels in enumerate(paired_pictures(images, names, image_hashes(segments, names), "segments")):
        box = analysed_box(segments.coords, index)
        # The pixels of a tree are what the model saw, already cropped to the box.
        if box is not None and not isinstance(images, xr.DataTree):
            pixels = analysed_part(pixels, box, segments.coords, index)
        yield pixels
