"""Commands that score a model and that make files to hand on: ``scores``, ``bundle``, ``freeze``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .._io.outputs import refuse_foreign, refuse_unwritable, write_whole
from ..errors import SpectralToolkitError, StoreError
from .inputs import load_model, open_activations, read_pictures, refuse_missing, say_loading, split
from .options import Device, Images, Model, MoreImages, Overwrite, Seed


def scores(
    model: Model,
    images: Images,
    out: Annotated[Path, typer.Option(help="The CSV file.")] = Path("scores.csv"),
    labels: Annotated[
        list[str] | None,
        typer.Option(
            help="Label maps: file, folder or glob, one for each image, of the same stem; may be repeated. Scenes have "
            "labels of their own. [default: only 'where' without controls by labels]"
        ),
    ] = None,
    affinities: Annotated[str, typer.Option(help="Any of qk,vv,kk,qq,token.")] = "qk,vv",
    n_eigenvectors: Annotated[int, typer.Option(min=1, help="The number of eigenvectors that are scored.")] = 15,
    more_images: MoreImages = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Score how much position and category the eigenvectors hold, by layer, with controls and intervals, as CSV."""
    if out.suffix.lower() != ".csv":
        raise SpectralToolkitError(f"--out {str(out)!r} is not a name for a table: give one that ends in .csv.")
    _refuse_taken(out, overwrite=overwrite)
    say_loading()
    import spectral_toolkit as st

    sources = [*images, *(more_images or [])]
    pictures = read_pictures(sources, seed)
    known = None
    if labels:
        known = st.datasets.folder(pictures, labels if len(labels) > 1 else labels[0]).labels
    elif not isinstance(pictures, str | list):
        known = st.scenes.sample(pictures.sizes["image"], seed=seed)["label"]
    loaded = load_model(model, device)
    quantities = ("query", "key", "value", "token")
    activations = st.capture(loaded, pictures, quantities=quantities, seed=seed)
    found = st.pathways(
        activations,
        known,
        kinds=tuple(split(affinities)),
        n_eigenvectors=n_eigenvectors,
        model=loaded,
        seed=seed,
        device=device,
    )
    table = st.to_dataframe(found)
    write_whole(out, table.to_csv(index=False, lineterminator="\n").encode())
    joint = table[(table["layer"] == "joint") & table["measure"].isin(("where", "what", "where_plain"))]
    for row in joint.to_dict("records"):
        typer.echo("{kind:<6}{measure:<12}{value:.3f}  ({low:.3f} to {high:.3f})".format(**row))
    typer.echo(f"{len(table)} rows -> {out.resolve()}")
    if found.attrs.get("notes"):
        typer.echo(found.attrs["notes"])


def bundle(
    activations: Annotated[Path, typer.Option(help="The zarr folder that capture wrote.")],
    out: Annotated[Path, typer.Option(help="The bundle, which ends in .zip.")],
    everything: Annotated[
        bool, typer.Option("--everything", help="Keep all that was captured, in its own precision.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Put captured activations into one file that opens elsewhere without the model."""
    refuse_missing("--activations", activations, "capture")
    refuse_unwritable(out)
    say_loading()
    import spectral_toolkit as st

    path = st.save_bundle(
        out,
        open_activations(activations),
        only="all" if everything else "view",
        float16=not everything,
        overwrite=overwrite,
    )
    typer.echo(f"{path.stat().st_size / 1e6:.1f} MB -> {path.resolve()} (spectral-toolkit explore --bundle opens it)")


def freeze(
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("explorer.html"),
    model: Annotated[str | None, typer.Option(help="Bundled name ('scenes'), hub name, or local folder.")] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(help="File, folder or glob; may be repeated. 'scenes:8' draws 8 of the built-in scenes."),
    ] = None,
    more_images: MoreImages = None,
    bundle: Annotated[Path | None, typer.Option(help="A bundle, instead of a model and images.")] = None,
    affinities: Annotated[str, typer.Option(help="Any of qk,vv,kk,qq,token: what to switch between.")] = "qk,vv",
    n_eigenvectors: Annotated[int, typer.Option(min=1, help="The number of eigenvectors.")] = 10,
    regions: Annotated[bool, typer.Option(help="Find segments and instances, which takes most of the time.")] = True,
    overwrite: Overwrite = False,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Write the explorer as one HTML page that needs neither Python nor a network."""
    given = bool(model), bool(images), bundle is not None
    if given not in ((True, True, False), (False, False, True)):
        raise SpectralToolkitError("Give --model and --images, or --bundle: a frozen page is made of one of the two.")
    if bundle is not None and not bundle.exists():
        raise StoreError(f"--bundle {str(bundle)!r} does not exist: give a file that st.save_bundle or 'bundle' wrote.")
    refuse_foreign(out, overwrite=overwrite)
    refuse_unwritable(out)
    say_loading()
    import spectral_toolkit as st

    how = {"n_eigenvectors": n_eigenvectors, "regions": regions, "device": device, "seed": seed}
    kinds = tuple(split(affinities))
    if bundle is not None:
        st.freeze(st.load_bundle(bundle), path=out, kinds=kinds, **how)
    else:
        pictures = read_pictures([*(images or []), *(more_images or [])], seed)
        st.freeze(load_model(str(model), device), pictures, out, kinds=kinds, **how)
    typer.echo(f"{out.stat().st_size / 1e6:.1f} MB -> {out.resolve()}")


def _refuse_taken(out: Path, *, overwrite: bool) -> None:
    """A CSV does not say who wrote it, so nothing is replaced that was not to be."""
    refuse_unwritable(out)
    if out.exists() and not overwrite:
        raise StoreError(f"{str(out)!r} exists already: add --overwrite to replace it, or choose another --out.")
