"""Pictures with a record, made as `upscale` makes them."""

from pathlib import Path
from typing import Any

from superfine.fidelity import Tally, measured_bands
from superfine.image import open_picture, save_picture
from superfine.provenance import Consistency, Record, Recorder, find_record, read_text
from superfine.route import Job, Workshops


def enlarge(
    source: Path, output: Path, *, upright: bool = False, psnr: float | None = 40.0, measured: bool = False, **job: Any
) -> Recorder:
    """x2 by bicubic unless told otherwise; psnr: the consistency figure, whatever it is really, unless measured."""
    asked = Job(**{"model": "bicubic", **job})
    picture = open_picture(source, white=asked.white, upright=upright)
    workshop, _ = Workshops(asked).suited(source)
    route = workshop.route(picture.shape, picture.dtype, workshop.job.target(picture.size), picture.dtype)
    recorder = Recorder(workshop, route, picture, output)

    def rows():
        large = route.bands(picture.shape, recorder.given_rows(picture.bands()))
        tally = Tally(psnr=psnr)
        if measured:
            large = measured_bands(large, picture.bands(), picture.shape, route.target, tally)
        yield from large
        recorder.conclude(
            Consistency(
                operator="bicubic", psnr=tally.psnr, samples=tally.samples, misses=tally.misses, worst=tally.worst
            )
        )

    save_picture(
        output,
        recorder.made_rows(rows()),
        (*route.target, picture.shape[2]),
        picture.dtype,
        like=picture,
        quality=asked.quality,
        xmp=recorder.xmp,
        seal=recorder.seal,
    )
    return recorder


def record_in_file(path: Path) -> Record:
    found = find_record(path)
    assert found is not None
    return read_text(found.text)
