"""`superfine cluster`: the same job as `upscale`, on all machines of a Ray cluster."""

import signal
from typing import Annotated

import typer

from superfine.cli_convert import as_model, speaking_of
from superfine.cli_options import (
    AsClip,
    AtDamage,
    AtInterlaced,
    Begin,
    Codec,
    Consistent,
    Crf,
    End,
    EngineName,
    FileFormat,
    ForeignColour,
    ForeignRange,
    Json,
    MaxMegapixels,
    Memory,
    ModelName,
    Overwrite,
    PrecisionName,
    Quality,
    Rate,
    Resume,
    Scale,
    Sharpness,
    Size,
    White,
    WithEnsemble,
    WithProvenance,
    job_of,
)

__all__ = ["cluster"]


def cluster(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC",
            help="Pictures, videos, folders that all nodes see, or URLs of object stores, as s3://archive/scans.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="A file for one source, else a folder, which all nodes see; or the URL of one in an object store.",
            show_default=False,
        ),
    ],
    address: Annotated[
        str,
        typer.Option(
            help="auto: the Ray cluster that this machine belongs to; local: one of this machine alone, for the time of"
            " the run; or HOST:PORT."
        ),
    ] = "auto",
    per_actor_cpus: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Cores for each worker; up to 4 by default, as nodes have them.",
            show_default=False,
        ),
    ] = None,
    gpus_per_actor: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="N", help="GPUs for each worker; 1 with --engine cuda, else none.", show_default=False
        ),
    ] = None,
    tries: Annotated[
        int, typer.Option(min=1, help="So often is a picture tried that takes its worker along, or can't be read.")
    ] = 3,
    patience: Annotated[
        float,
        typer.Option(
            min=0.01,
            metavar="MINUTES",
            help="A worker on which nothing moves on for so long, as in a decoder that hangs, is given up; it counts as"
            " a try.",
        ),
    ] = 360,
    mixed: Annotated[
        bool,
        typer.Option("--mixed", help="Take nodes of several kinds; their results agree within one level of 255."),
    ] = False,
    scale: Scale = None,
    size: Size = None,
    model: ModelName = "auto",
    sharpness: Sharpness = None,
    file_format: FileFormat = None,
    quality: Quality = None,
    resume: Resume = True,
    overwrite: Overwrite = False,
    engine: EngineName = "openvino",
    precision: PrecisionName = "auto",
    consistent: Consistent = None,
    ensemble: WithEnsemble = False,
    provenance: WithProvenance = True,
    memory: Memory = None,
    white: White = None,
    max_megapixels: MaxMegapixels = 1000,
    codec: Codec = "auto",
    crf: Crf = None,
    start: Begin = None,
    end: End = None,
    damaged: AtDamage = "stop",
    interlaced: AtInterlaced = "deinterlace",
    as_clip: AsClip = False,
    rate: Rate = None,
    foreign_colour: ForeignColour = None,
    foreign_range: ForeignRange = None,
    as_json: Json = False,
) -> None:
    """Enlarge pictures, videos and folders of them on a Ray cluster, bit for bit as one machine does."""
    from superfine.cluster import upscale_on_cluster
    from superfine.progress import ClusterLines, ClusterTerminal

    listener = ClusterLines() if as_json else ClusterTerminal()
    used = as_model(model, colour=foreign_colour, span=foreign_range)
    try:
        with speaking_of(model, used), listener:
            job = job_of(
                scale=scale,
                size=size,
                model=used,
                sharpness=sharpness,
                file_format=file_format,
                quality=quality,
                engine=engine,
                precision=precision,
                consistent=consistent,
                ensemble=ensemble,
                provenance=provenance,
                memory=memory,
                white=white,
                max_megapixels=max_megapixels,
                codec=codec,
                crf=crf,
                start=start,
                end=end,
                damaged=damaged,
                interlaced=interlaced,
                as_clip=as_clip,
                rate=rate,
            )
            report = upscale_on_cluster(
                sources,
                output,
                address=address,
                job=job,
                cores_per_worker=per_actor_cpus,
                gpus_per_worker=gpus_per_actor,
                tries=tries,
                patience_minutes=patience,
                mixed=mixed,
                resume=resume,
                overwrite=overwrite,
                progress=listener,
            )
    except KeyboardInterrupt as stop:
        typer.echo("superfine: stopped; what is finished stays, and the same command goes on with the rest", err=True)
        raise typer.Exit(128 + (stop.args[0] if stop.args else signal.SIGINT)) from None
    listener.total(report)
    raise typer.Exit(1 if report.failed else 0)
