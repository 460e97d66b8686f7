"""The command line: ``spectral-toolkit demo | capture | solve | project | segment | scores | report | bundle | freeze |
explore | doctor``.

Each command only calls the public functions. They are imported inside the commands, so that ``--help`` appears at once.
Bad input gives one sentence on stderr and exit code 2; Ctrl-C gives 130.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__
from .._compute.processes import barrier, join, rank, say_once
from .._io.console import any_letters
from .._io.outputs import refuse_foreign, refuse_unwritable, write_store
from ..errors import SpectralToolkitError
from .inputs import (
    IMPORTED,
    MAX_SCENES,
    check_layers,
    import_modules,
    load_model,
    numbers_by_name,
    open_activations,
    open_eigenvectors,
    parse_layers,
    quiet_libraries,
    read_pictures,
    refuse_before_study,
    refuse_missing,
    say_loading,
    split,
    stored_layers,
    stored_weights,
)
from .keeping import bundle, freeze, scores
from .options import Device, Images, Model, MoreImages, Overwrite, Seed
from .server.pages import IDLE_MINUTES, MOST_PAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

# Options that a study's file decides, so that the command line may not.
_SINGLE = ("model", "images", "more_images", "n_eigenvectors", "device", "seed")
# How to go on after Ctrl-C; other commands have written nothing and begin anew.
_INTERRUPTED = {
    "capture": "run the same command again, and it resumes after the last batch that was written",
    "solve": "run the same command again: neighbours that were found are read, and with --checkpoint the gradient "
    "method resumes; nothing was written to --out",
    "report": "run the same command again: a study (--config) resumes where it stopped, and a report begins anew",
}
_BEGINS_ANEW = "nothing was written, so run the same command again"

app = typer.Typer(
    name="spectral-toolkit",
    help="Capture every layer of a vision transformer, solve one spectral problem, and see its eigenvectors.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="MODULE",
            help="Import this module first, which registers kernels, solvers, scores or views of your own; may be "
            "repeated.",
        ),
    ] = None,
) -> None:
    import_modules(modules or [])
    if version:
        typer.echo(f"spectral-toolkit {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html and eigenvectors.zarr.")] = Path("out"),
    n_images: Annotated[int, typer.Option(min=1, max=MAX_SCENES, help="The number of scenes.")] = 8,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Capture, solve and report, with the bundled model and generated scenes."""
    store, page = out / "eigenvectors.zarr", out / "report.html"
    refuse_unwritable(store)
    refuse_foreign(store, overwrite=True)
    refuse_foreign(page, overwrite=True)
    say_loading()
    import xarray as xr

    import spectral_toolkit as st

    from .._views.report import render_report

    affinity, solve, capture = st.affinity, st.solve, st.capture  # loads the libraries, so that no timing includes this

    model = load_model("scenes", device)
    pictures = st.scenes.sample(n_images, seed=seed)["pixels"]
    started = perf_counter()
    activations = capture(model, pictures, seed=seed)
    capture_seconds = perf_counter() - started

    solved: dict[str, xr.Dataset] = {}
    seconds: dict[str, float] = {}
    for kind in ("qk", "vv"):
        started = perf_counter()
        solved[kind] = solve(affinity(activations, kind, device=device), seed=seed)
        seconds[kind] = perf_counter() - started

    write_store(xr.DataTree.from_dict(dict(solved)), store)
    started = perf_counter()
    render_report(activations, solved, page, pictures_source=f"st.scenes.sample({n_images}, seed={seed}).pixels")
    report_seconds = perf_counter() - started

    layers = solved["qk"].sizes["layer"]
    grids = sorted({(node.sizes["y"], node.sizes["x"]) for node in activations.children.values()}, reverse=True)
    height, width = activations["pixels"].shape[1:3]
    typer.echo(f"images        {n_images} scenes of {height} x {width} pixels, seed {seed}")
    typer.echo(
        f"model         {model.name}: {layers} layers, "
        f"{' and '.join(f'{y} x {x}' for y, x in grids)} tokens each, on {model.device}"
    )
    typer.echo(f"capture       {capture_seconds:.2f} s")
    for kind, name in (("qk", "query-key"), ("vv", "value-value")):
        typer.echo(f"{name:<13} {seconds[kind]:.2f} s; {_summary(solved[kind])}")
    typer.echo(f"report        {report_seconds:.2f} s -> {page.resolve()}")
    typer.echo(f"eigenvectors  {store.resolve()} (groups qk and vv)")


@app.command()
def capture(
    model: Model,
    images: Images,
    out: Annotated[
        Path, typer.Option(help="Zarr folder for the activations; an interrupted capture is resumed there.")
    ],
    more_images: MoreImages = None,
    layers: Annotated[str, typer.Option(help="'all', or numbers, ranges and names: 0,2,5-8.")] = "all",
    quantities: Annotated[
        str, typer.Option(help="Any of query,key,value,token,query_unrotated,key_unrotated.")
    ] = "query,key,value",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Record queries, keys, values or tokens of every layer. torchrun -m spectral_toolkit capture shares the work."""
    wanted = parse_layers(layers)
    say_loading()
    import spectral_toolkit as st

    pictures = read_pictures([*images, *(more_images or [])], seed)
    loaded = load_model(model, device)
    check_layers(layers, wanted, len(loaded.layers))
    started = perf_counter()
    activations = st.capture(
        loaded,
        pictures,
        layers=wanted,
        quantities=tuple(split(quantities)),
        store=out,
        batch_size=batch_size,
        seed=seed,
    )
    _echo(
        f"{activations.sizes['image']} images, {len(activations.children)} layers of {loaded.name} "
        f"in {perf_counter() - started:.1f} s -> {out.resolve()}"
    )


@app.command()
def solve(
    activations: Annotated[Path, typer.Option(help="The zarr folder that capture wrote.")],
    out: Annotated[Path, typer.Option(help="Zarr folder for the eigenvectors.")],
    affinity: Annotated[str, typer.Option(help="qk, vv, kk, qq, token or qk_unrotated.")] = "qk",
    kernel: Annotated[
        str | None, typer.Option(help="softmax, cosine, shifted_cosine, rbf or knn. [default: fits the affinity]")
    ] = None,
    kernel_option: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=NUMBER, such as threshold=0.2 or within=30: an option of st.affinity; may be repeated."
        ),
    ] = None,
    layers: Annotated[str, typer.Option(help="'all', or numbers, ranges and names: 0,2,5-8.")] = "all",
    weight: Annotated[
        list[str] | None,
        typer.Option(
            help="LAYER=NUMBER, by name or number; other layers keep weight 1; may be repeated. [default: 1 each]"
        ),
    ] = None,
    heads: Annotated[str, typer.Option(help="mean, or each, which makes one graph per head.")] = "mean",
    scope: Annotated[
        str, typer.Option(help="image: each image alone; dataset: one problem over all images.")
    ] = "image",
    search: Annotated[
        str | None, typer.Option(help="How knn finds neighbours: exact, or faiss for large sets. [default: exact]")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Folder in which knn keeps neighbours for later runs. [default: beside --out, until it is written]"
        ),
    ] = None,
    n_eigenvectors: Annotated[
        int, typer.Option(help="The number of eigenvectors, besides the trivial constant one.")
    ] = 10,
    method: Annotated[str, typer.Option(help="exact, or gradient, which is the method of the source paper.")] = "exact",
    steps: Annotated[
        int | None, typer.Option(help="For gradient with scope image: the number of steps. [default: 2000]")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="For gradient with scope dataset: the number of epochs. [default: 200]")
    ] = None,
    n_features: Annotated[
        int | None, typer.Option(help="For gradient. [default: one more than the eigenvectors; 100 for a dataset]")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="For gradient. [default: 0.002; 0.01 for a dataset]")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="For gradient: steps or epochs without improvement before a stop. [default: 200; never for a dataset]"
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="For gradient: a file in which progress is kept, and from which the run resumes if it exists."
        ),
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(help="For gradient: steps or epochs between two checkpoints. [default: 100; 10 for a dataset]"),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="The largest residual that counts as converged.")] = 1e-6,
    overwrite: Overwrite = False,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Solve the joint eigenproblem over all captured layers. Under torchrun, --scope dataset shares the work."""
    refuse_foreign(out, overwrite=overwrite)
    refuse_unwritable(out)
    refuse_missing("--activations", activations, "capture")  # checked before torch is loaded, which takes seconds
    say_loading()
    import shutil

    import spectral_toolkit as st

    from .._affinity.dataset_graph import DatasetGraph
    from .._io.activations import layer_names

    barrier()
    if scope == "image" and rank() > 0:
        return  # images that are solved alone are not shared among processes
    captured = open_activations(activations)
    names = layer_names(captured)
    options_of_kernel: dict[str, Any] = dict(numbers_by_name(kernel_option, "--kernel-option"))
    graph = st.affinity(
        captured,
        affinity,
        kernel=kernel,
        layers=stored_layers(layers, names),
        weights=stored_weights(weight, names) or None,
        heads=heads,
        scope=scope,
        search=search,
        folder=folder,
        device=device,
        **options_of_kernel,
    )
    # The neighbours that a search found are kept if the run is cut short; the next run reads them.
    kept = out.with_name(f".{out.name}.neighbours")
    if isinstance(graph, DatasetGraph) and folder is None:
        graph.folder = kept
    given = {
        "steps": steps,
        "epochs": epochs,
        "n_features": n_features,
        "learning_rate": learning_rate,
        "patience": patience,
        "checkpoint": checkpoint,
        "checkpoint_every": checkpoint_every,
    }
    options = {name: value for name, value in given.items() if value is not None}
    eigenvectors = st.solve(
        graph, n_eigenvectors, method=method, tolerance=tolerance, seed=seed, progress=True, **options
    )
    if rank() == 0:
        write_store(eigenvectors, out)
        shutil.rmtree(kept, ignore_errors=True)
    _echo(f"{_summary(eigenvectors)}; {float(eigenvectors.attrs['seconds']):.2f} s -> {out.resolve()}")


@app.command()
def project(
    activations: Annotated[Path, typer.Option(help="The zarr folder that capture wrote for the new images.")],
    eigenvectors: Annotated[Path, typer.Option(help="The zarr folder that solve --scope dataset wrote.")],
    fitted: Annotated[Path, typer.Option(help="The zarr folder of the activations that were solved.")],
    out: Annotated[Path, typer.Option(help="Zarr folder for the new images' eigenvectors.")],
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder in which knn kept neighbours for solve, or is to keep them. [default: none]"),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Extend the eigenvectors of a solved dataset to new images."""
    for given in (activations, eigenvectors, fitted):
        if out.resolve() == given.resolve():
            raise SpectralToolkitError(
                f"--out {str(out)!r} is also an input: give another folder for the new eigenvectors."
            )
    refuse_foreign(out, overwrite=overwrite)
    refuse_unwritable(out)
    refuse_missing("--activations", activations, "capture")
    refuse_missing("--fitted", fitted, "capture")
    refuse_missing("--eigenvectors", eigenvectors, "solve")
    say_loading()
    eig = open_eigenvectors(eigenvectors)
    import spectral_toolkit as st

    started = perf_counter()
    if sys.stderr.isatty():
        print(f"Reading the affinities of {eig.sizes.get('image', 1)} images.", file=sys.stderr, flush=True)
    found = st.project(
        open_activations(activations), eig, open_activations(fitted, "--fitted"), folder=folder, device=device
    )
    write_store(found, out)
    _echo(
        f"{found.sizes['image']} images in {found.sizes['component']} eigenvectors of {found.attrs['fitted_images']} "
        f"others; {perf_counter() - started:.1f} s -> {out.resolve()}"
    )


@app.command()
def segment(
    eigenvectors: Annotated[Path, typer.Option(help="The zarr folder that solve wrote.")],
    out: Annotated[Path, typer.Option(help="Zarr folder for the labels, 'segment' (image, y, x).")],
    n_segments: Annotated[
        str,
        typer.Option(
            help="A number, or a criterion that chooses one from 2 to 10: silhouette (also auto) or eigengap."
        ),
    ] = "auto",
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Divide the images into segments, by k-means on their eigenvectors."""
    if out.resolve() == eigenvectors.resolve():
        raise SpectralToolkitError(f"--out {str(out)!r} holds the eigenvectors: give another folder for the segments.")
    refuse_foreign(out, overwrite=overwrite)
    refuse_unwritable(out)
    refuse_missing("--eigenvectors", eigenvectors, "solve")
    say_loading()
    import spectral_toolkit as st

    wanted = int(n_segments) if re.fullmatch(r"[+-]?\d{1,9}", n_segments) else n_segments
    started = perf_counter()
    given = open_eigenvectors(eigenvectors)
    if sys.stderr.isatty():
        print(f"Dividing {given.sizes.get('image', 1)} images into segments.", file=sys.stderr, flush=True)
    segments = st.segment(given, wanted, seed=seed)
    write_store(segments.to_dataset(), out)
    counts = segments["n_segments"]
    least, most = int(counts.min()), int(counts.max())
    of_each = f"{least} segments in each of" if least == most else f"{least} to {most} segments in"
    _echo(f"{of_each} {counts.size} images; {perf_counter() - started:.1f} s -> {out.resolve()}")
    if segments.attrs["notes"]:
        _echo(segments.attrs["notes"])


@app.command()
def report(
    model: Annotated[str | None, typer.Option(help="Bundled name ('scenes'), hub name, or local folder.")] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(help="File, folder or glob; may be repeated. 'scenes:8' draws 8 of the built-in scenes."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of a whole study, instead of a model and images.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            help="JSON of an earlier study: run --config again, write nothing, and report which numbers have moved."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The HTML file. [default: report.html; for a study, its own name, with .json and .zarr beside it]"
        ),
    ] = None,
    more_images: MoreImages = None,
    n_eigenvectors: Annotated[
        int, typer.Option(min=1, help="The number of eigenvectors, besides the trivial constant one.")
    ] = 10,
    overwrite: Overwrite = False,
    device: Device = "auto",
    seed: Seed = 0,
    context: typer.Context = None,  # pyright: ignore[reportArgumentType]
) -> None:
    """Write one self-contained HTML page: images, eigenvectors, spectrum, provenance.

    With --config, run a whole study: models x images x affinities x layers, on one page, with all numbers as JSON and
    all eigenvectors as zarr beside it. A study that was interrupted resumes where it stopped when it is run again. With
    --check, the exit code is 1 if a number has moved.
    """
    if config is not None or check is not None:
        if config is not None:
            refuse_before_study(config, check, out, overwrite=overwrite)
        say_loading()
        from ..studies.command import study_command

        given = [name for name in _SINGLE if context.get_parameter_source(name).name == "COMMANDLINE"]  # pyright: ignore[reportOptionalMemberAccess]
        raise typer.Exit(
            study_command(config, check, out, given=given, overwrite=overwrite, quiet=quiet_libraries, tell=typer.echo)
        )
    for name, value in (("--model", model), ("--images", images)):
        if not value:
            raise SpectralToolkitError(f"Missing option {name!r}: give --model and --images, or --config for a study.")
    assert model is not None
    assert images is not None
    target = out or Path("report.html")
    if target.suffix.lower() not in (".html", ".htm"):
        raise SpectralToolkitError(
            f"--out {str(target)!r} is not a name for a page: give one that ends in .html, such as 'report.html'."
        )
    refuse_foreign(target, overwrite=overwrite)
    refuse_unwritable(target)
    say_loading()
    import spectral_toolkit as st

    pictures = read_pictures([*images, *(more_images or [])], seed)
    loaded = load_model(model, device)
    started = perf_counter()
    st.report(loaded, pictures, target, n_eigenvectors=n_eigenvectors, device=device, seed=seed)
    typer.echo(f"report in {perf_counter() - started:.1f} s -> {target.resolve()}")


app.command()(scores)
app.command()(bundle)
app.command()(freeze)


@app.command()
def explore(
    model: Annotated[str, typer.Option(help="Bundled name ('scenes'), hub name, or local folder.")] = "scenes",
    images: Annotated[
        list[str], typer.Option(help="File, folder or glob; may be repeated. 'scenes:8' draws built-in scenes.")
    ] = ["scenes:8"],  # noqa: B006
    more_images: MoreImages = None,
    bundle: Annotated[
        Path | None, typer.Option(help="A bundle that st.save_bundle wrote, instead of a model and images.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="[default: any free port]")] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser, or only print its address.")] = True,
    max_pages: Annotated[
        int, typer.Option(min=1, help="How many pages may be open at once; each has a kernel of about 600 MB.")
    ] = MOST_PAGES,
    idle_minutes: Annotated[
        float, typer.Option(min=1, help="The kernel of a page ends after this many minutes without use.")
    ] = IDLE_MINUTES,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Open the explorer as an app in the browser, on this machine only and protected by a token.

    The kernel of a closed page ends within a minute.
    """
    say_loading()
    from .._io.bundles import load_bundle
    from .server import explorer_code, serve

    if bundle is not None:
        load_bundle(bundle)  # any error in it is reported here and not in the page
        arguments = repr(str(bundle))
    else:
        pictures = read_pictures([*images, *(more_images or [])], seed)
        load_model(model, device)
        # The page draws the same sample again, from the same seed.
        source = (
            repr(pictures)
            if isinstance(pictures, str | list)
            else f"st.scenes.sample({pictures.sizes['image']}, seed={seed}).pixels"
        )
        arguments = f"{model!r}, {source}, device={device!r}, seed={seed}"
    serve(
        explorer_code(arguments, os.getcwd(), bundle=bundle is not None, modules=IMPORTED),
        port=port,
        open_browser=browser,
        max_pages=max_pages,
        idle_minutes=idle_minutes,
        announce=typer.echo,
    )


@app.command()
def doctor() -> None:
    """Report what is installed, what fits together and what to do. The exit code is 1 if something will fail."""
    import spectral_toolkit as st

    if not st.doctor().healthy:
        raise typer.Exit(1)


_COMMANDS = frozenset(one.name or getattr(one.callback, "__name__", "") for one in app.registered_commands)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 2 for bad input, 130 after Ctrl-C."""
    # Read when torch is first loaded. Threads that spin while they wait starve each other once anything else runs: two
    # cores, one of them busy, solved the demo in 12 s, and in 0.1 s with this. A value that the user has set is kept.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    with any_letters():
        return _run(given)


def _run(given: list[str]) -> int:
    with warnings.catch_warnings():
        warnings.showwarning = _show_our_warnings
        try:
            with join():  # does nothing unless torchrun started several processes
                result = app(given, prog_name="spectral-toolkit", standalone_mode=False)
                if isinstance(result, int) and result:
                    # After an exception: a process that was interrupted alone must not wait for others that wait for
                    # it.
                    raise typer.Exit(result)
        except typer.Exit as ended:
            result = ended.exit_code
        except (SpectralToolkitError, typer.TyperException) as error:
            return _fail(error.format_message() if isinstance(error, typer.TyperException) else str(error))
        except MemoryError as error:
            return _fail(
                f"Memory ran out ({str(error) or 'no further detail'}): use fewer or smaller images, fewer layers or "
                "a smaller --batch-size."
            )
        except OSError as error:
            return _fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    if result == 130:
        command = next((word for word in given if word in _COMMANDS), "")
        print(f"Interrupted: {_INTERRUPTED.get(command, _BEGINS_ANEW)}.", file=sys.stderr)
    return result if isinstance(result, int) else 0


def _fail(message: str) -> int:
    say_once(" ".join(message.split()))
    return 2


def _show_our_warnings(message: Warning | str, category: type[Warning], filename: str, *_: object) -> None:
    """One line for a warning of ours; deprecations inside libraries are of no use on a command line."""
    if rank() == 0 and Path(filename).is_relative_to(Path(__file__).parent.parent):
        print(f"Warning: {' '.join(str(message).split())}", file=sys.stderr)


def _echo(message: str) -> None:
    if rank() == 0:
        typer.echo(message)


def _summary(eigenvectors: xr.Dataset) -> str:
    """Residual, convergence and eigengap of a result in one line."""
    converged = eigenvectors["converged"]
    gaps = eigenvectors["eigengap"]
    of_each = ""
    if "image" in gaps.dims:
        of_each = f" ({gaps.sizes['component']} of each image)"
        gaps = gaps.mean("image")
    widest = gaps.isel(component=int(gaps.argmax("component")))
    return (
        f"{int(converged.sum())} of {converged.size} eigenvectors converged{of_each}, "
        f"largest residual {float(eigenvectors['residual'].max()):.1e}, "
        f"widest eigengap {float(widest):.3g} after component {int(widest['component'])}"
    )
