"""The door to registration: `superfine register`. Heavy imports wait until it runs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superfine.terminal import one_line

if TYPE_CHECKING:
    from superfine.classical.register import Registration

__all__ = ["register"]


def register(
    first: Annotated[Path, typer.Argument(metavar="A", help="The picture to measure from.", show_default=False)],
    second: Annotated[
        Path, typer.Argument(metavar="B", help="The same scene, moved; of the same size.", show_default=False)
    ],
    model: Annotated[str, typer.Option(help="translation, or affine for hand-held pictures.")] = "translation",
    robust: Annotated[bool, typer.Option("--robust", help="Leave out what moves otherwise than the rest.")] = False,
    max_megapixels: Annotated[float, typer.Option(help="Refuse pictures of more millions of pixels than this.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Measure how far the content has moved from A to B, with a standard error."""
    from superfine.classical.register import register as measure
    from superfine.errors import NoMatchError, UsageError

    if model not in ("translation", "affine"):
        raise UsageError(f"--model {model}: there are translation and affine")
    names = (one_line(str(first)), one_line(str(second)))
    pictures = [_pixels(path, max_megapixels) for path in (first, second)]
    sizes = [f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in pictures]
    if sizes[0] != sizes[1]:
        raise UsageError(f"{names[0]} is {sizes[0]} and {names[1]} is {sizes[1]}; cut them to one size")
    if len({pixels.shape[2] >= 3 for pixels in pictures}) == 2:
        grey = names[0] if pictures[0].shape[2] < 3 else names[1]
        raise UsageError(f"{names[0]} and {names[1]}: only {grey} is grey; make both grey or both colour")
    try:
        found = measure(*pictures, model=model, robust=robust)  # type: ignore[arg-type]
    except NoMatchError as error:
        raise NoMatchError(f"{names[0]} and {names[1]}: {error}") from error
    typer.echo(json.dumps(_facts(names, found, model), ensure_ascii=False) if as_json else _words(found, model))


def _pixels(path: Path, max_megapixels: float) -> Any:
    """The whole picture as it is seen, without alpha: (H, W, 1 or 3)."""
    import numpy as np

    from superfine.image import open_picture

    picture = open_picture(path, max_megapixels=max_megapixels, upright=True)
    pixels = np.concatenate(list(picture.bands()))
    return pixels[..., :-1] if picture.alpha else pixels


def _words(found: "Registration", model: str) -> str:
    (down, right), (down_error, right_error) = found.shift, found.error
    lines = [
        f"dx {right:+.4f} px (to the right), standard error {right_error:.2g}",
        f"dy {down:+.4f} px (down), standard error {down_error:.2g}",
    ]
    if model == "affine":
        (yy, yx, _), (xy, xx, _) = found.matrix
        lines[0] += ", at the centre"
        lines[1] += ", at the centre"
        lines.append(f"x' = {xx:.6f} x {xy:+.6f} y {found.matrix[1, 2]:+.4f}")
        lines.append(f"y' = {yx:.6f} x {yy:+.6f} y {found.matrix[0, 2]:+.4f}   (x right, y down, from the first pixel)")
    lines.append(f"overlap {100 * found.overlap:.1f} % of the picture, correlation {found.correlation:.4f}")
    if found.inliers < 1:
        lines.append(f"{100 * (1 - found.inliers):.1f} % of it moves otherwise, or isn't the same")
    return "\n".join(lines)


def _facts(names: tuple[str, str], found: "Registration", model: str) -> dict[str, Any]:
    facts = asdict(found)
    (down, right), (down_error, right_error) = facts.pop("shift"), facts.pop("error")
    (yy, yx, y0), (xy, xx, x0) = facts.pop("matrix").tolist()
    return {
        "first": names[0],
        "second": names[1],
        "model": model,
        "dx": right,
        "dy": down,
        "dx_error": right_error,
        "dy_error": down_error,
        # Rows of x' and y', columns of x, y and 1.
        "matrix": [[xx, xy, x0], [yx, yy, y0]],
        **facts,
    }
