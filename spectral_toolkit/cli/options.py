"""Options that several commands share, so that they have one name and one sentence everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="Bundled name ('scenes'), hub name, or local folder.")]
Images = Annotated[
    list[str],
    typer.Option(help="File, folder or glob; may be repeated. 'scenes:8' draws 8 of the built-in scenes."),
]
# The shell expands an unquoted glob: the first file belongs to --images, and the others arrive as arguments.
MoreImages = Annotated[list[str] | None, typer.Argument(hidden=True)]
Device = Annotated[str, typer.Option(help="auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1 or mps.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Equal seeds give equal numbers.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result at --out.")]
