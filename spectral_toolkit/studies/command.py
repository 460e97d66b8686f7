"""Does the work of ``spectral-toolkit report --config``; the command line only reads its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from ..errors import StudyError
from .check import check_study
from .running import output_paths, run_study


def study_command(
    config: Path | None,
    check: Path | None,
    out: Path | None,
    *,
    given: Sequence[str],
    overwrite: bool,
    quiet: Callable[[], None],
    tell: Callable[[str], object],
) -> int:
    """Run a study, or compare it with an earlier one, and return the exit code.

    Parameters
    ----------
    config, check, out
        The options of these names.
    given
        Names of options that were given although the study's file decides them.
    quiet
        A function that is called before models are loaded, to silence the libraries' progress bars.
    tell
        A function that prints a line.
    """
    if config is None:
        raise StudyError(
            f"--check {str(check)!r} needs the study that is to be run again: give its file with --config."
        )
    if given:
        option = "--" + given[0].replace("more_images", "images").replace("_", "-")
        raise StudyError(f"{option} cannot be given with --config: the study's file decides it, so write it there.")
    quiet()
    started = perf_counter()
    if check is not None:
        if out is not None or overwrite:
            name = "--out" if out is not None else "--overwrite"
            raise StudyError(f"{name} means nothing to --check, which writes nothing: leave it out.")
        found = check_study(config, check, tell=tell)
        for line in found.lines():
            tell(line)
        return 0 if found.passed else 1
    result = run_study(config, out or Path(f"{config.stem}.html"), overwrite=overwrite, tell=tell)
    tell(
        f"{len(result.cells)} cells, {result.from_cache} of them from the cache, in {perf_counter() - started:.1f} s; "
        f"{result.html.stat().st_size / 1e6:.1f} MB of page ->  {result.html.resolve()}"
    )
    tell(f"numbers       {result.json.resolve()}")
    tell(f"tables        {', '.join(str(one.resolve()) for one in result.tables)}")
    tell(f"eigenvectors  {result.zarr.resolve()}")
    folder = output_paths(result.html)[3]
    tell(
        f"cache         {folder.resolve()} (may be deleted; if it is kept, the next run computes only what has changed)"
    )
    if (least := min(len(one["names"]) for one in result.record["pictures"])) > result.shown and (
        result.shown < result.record["study"]["show"]
    ):
        tell(f"The page shows {result.shown} of {least} or more images of each set, to stay below 20 MB.")
    return 0
