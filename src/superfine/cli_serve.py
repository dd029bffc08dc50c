"""`superfine serve`: the page and the API."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from superfine.errors import MissingExtraError

__all__ = ["serve"]


def serve(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 8765,
    host: Annotated[
        str, typer.Option(help="The address to listen on; others than this machine's own need the token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="SUPERFINE_TOKEN",
            metavar="TOKEN",
            help="What whoever asks must know; made up and printed where others can reach the server.",
            show_default=False,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A name that the server goes by, behind a reverse proxy.", show_default=False
        ),
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A Unix socket to listen on instead of a port; needs the token.", show_default=False
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="For uploads, results and jobs; yours by default.", show_default=False),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Let programs name files below it, not only upload.", show_default=False),
    ] = None,
    allow_models: Annotated[
        bool, typer.Option("--allow-models", help="Let networks be uploaded, .onnx and .safetensors.")
    ] = False,
    max_upload: Annotated[float, typer.Option(metavar="MB", min=0.001, help="The largest file.")] = 1000,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="The largest picture, or frame of a video.")] = 100,
    max_frames: Annotated[int, typer.Option(min=1, help="The longest video.")] = 10_000,
    max_queue: Annotated[int, typer.Option(min=1, help="Jobs that may wait.")] = 100,
    max_disk: Annotated[float, typer.Option(metavar="GB", min=0.001, help="For all files together.")] = 20,
    keep_hours: Annotated[float, typer.Option(min=0.001, help="How long files are kept.")] = 24,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Jobs at a time; by default from cores and memory.", show_default=False),
    ] = None,
    open_page: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open",
            help="Open the page in the browser; by default where somebody sits before this machine, without a token.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Open a page for the browser, and an API over HTTP; nothing leaves the machine."""
    try:
        from superfine.serve.running import Start, opens_by_itself, run
    except ModuleNotFoundError as error:
        raise MissingExtraError("superfine serve", "serve") from error
    start = Start(
        host=host,
        port=port,
        token=token,
        names=tuple(allow_host or ()),
        socket=socket,
        state=state,
        root=root,
        allow_models=allow_models,
        upload_megabytes=max_upload,
        megapixels=max_megapixels,
        frames=max_frames,
        queued=max_queue,
        disk_gigabytes=max_disk,
        hours_kept=keep_hours,
        workers=workers,
    )
    wanted = opens_by_itself(start, terminal=sys.stdout.isatty()) if open_page is None else open_page
    run(replace(start, open_page=wanted and socket is None), typer.echo)
