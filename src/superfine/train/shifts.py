"""Learning an unknown shift from pairs of pictures: read, fit or train, export, judge on pairs held out.

Four methods: `kernel`, one convolution by least squares and by gradient descent; `stn`, a
spatial transformer; `convgan` and `vae`, which learn pictures rather than moves. The
closed form is `classical.shift_fit`, and each of the others is held against it.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from superfine.atomic import written_whole
from superfine.classical.shift import tap_weights
from superfine.classical.shift_errors import ShiftErrors, flow_between, mean_errors, shift_errors
from superfine.classical.shift_fit import Fit, Likeness, ShiftKernel, closest_method, fit_kernel
from superfine.color import KINDS, to_kind, to_unit
from superfine.engine import open_engine
from superfine.errors import OutputError, SourceError, UsageError
from superfine.image import FORMATS, open_picture
from superfine.models import Card, read_model
from superfine.shift import shift_learned
from superfine.train.export import export
from superfine.train.losses import adversarial, critic_loss, gradient_weighted
from superfine.train.nets.shifters import (
    SHIFTERS,
    KernelShifter,
    ShiftCritic,
    Shifter,
    SpatialTransformer,
    VariationalShifter,
)

__all__ = [
    "SHIFT_METHODS",
    "STEPS",
    "HeldOut",
    "LearnedShift",
    "Pair",
    "ShiftMethod",
    "ShiftReport",
    "descend",
    "learn_path",
    "learn_shift",
    "read_pairs",
]

Array = npt.NDArray[np.generic]
Say = Callable[[str], None]
ShiftMethod = Literal["kernel", "stn", "convgan", "vae"]
SHIFT_METHODS: Final[tuple[ShiftMethod, ...]] = get_args(ShiftMethod)

#: Steps of training where none are given; of `kernel` they are those of its gradient descent.
STEPS: Final[dict[ShiftMethod, int]] = {"kernel": 1200, "stn": 600, "convgan": 800, "vae": 800}
_RATES: Final[dict[ShiftMethod, float]] = {"kernel": 1e-2, "stn": 5e-3, "convgan": 1e-3, "vae": 2e-3}
_ADVERSARIAL: Final = 1e-4
_DIVERGENCE: Final = 1e-5
_BATCH: Final = 16
_PATCH: Final = 32
# The spatial transformer looks at more of the picture.
_STN_PATCH: Final = 64
# Pixels of all pictures together that are held in memory.
_MOST_PIXELS: Final = 24_000_000
# Of the pairs, one in so many is held out, and one at least.
_HELD_OUT: Final = 5
# A kernel is named by a method when no weight differs by more.
_LIKE: Final = 2e-3


class Pair(NamedTuple):
    """A picture and the same one moved: (H, W, 1 or 3), of one dtype and shape, without alpha."""

    name: str
    source: Array
    target: Array


class HeldOut(NamedTuple):
    """How a method does on the pairs that nobody learned from."""

    errors: ShiftErrors
    equal: float
    """Share of the samples with the very level of the target; for float, within half an 8-bit level."""
    largest: float
    """The largest difference, in levels of the pictures; for float, of 255."""

    @property
    def mean_square(self) -> float:
        """Mean squared difference, of full scale: the square of `l2` for one picture."""
        return self.errors.l2**2


@dataclass(frozen=True)
class LearnedShift:
    """What was learned, before it is written."""

    net: Shifter
    """As it is exported."""
    trained: Shifter
    """As it was trained."""
    shift: tuple[float, float] | None
    """(dy, dx); None where a method has no such thing."""
    words: tuple[str, ...] = ()
    """What a person should know."""


@dataclass(frozen=True, kw_only=True)
class ShiftReport:
    """What `superfine learn-shift` found."""

    output: Path
    method: ShiftMethod
    shift: tuple[float, float] | None
    """(dy, dx) of the method; None for convgan and vae."""
    fit: Fit
    likeness: Likeness
    learned_from: int
    judged_on: int
    border: int
    """Pixels on each side that no figure looks at."""
    rows: dict[str, HeldOut]
    """not moved, kernel, and the method."""
    words: tuple[str, ...] = field(default=())

    def facts(self) -> dict[str, Any]:
        """For JSON; shifts as dx and dy."""
        kernel = self.fit.kernel
        rows = {}
        for name, row in self.rows.items():
            flow = row.errors.flow
            rows[name] = {
                "l1": row.errors.l1,
                "l2": row.errors.l2,
                "mean_square": row.mean_square,
                "gradient_weighted": row.errors.gradient_weighted,
                "flow_dx": flow and flow[1],
                "flow_dy": flow and flow[0],
                "equal": row.equal,
                "largest": row.largest,
            }
        return {
            "output": str(self.output),
            "method": self.method,
            "dx": self.shift and self.shift[1],
            "dy": self.shift and self.shift[0],
            "kernel": kernel.weights.tolist(),
            "kernel_top": kernel.top,
            "kernel_left": kernel.left,
            "kernel_dx": kernel.shift[1],
            "kernel_dy": kernel.shift[0],
            "like": self.likeness.method if self.likeness.difference < _LIKE else None,
            "learned_from": self.learned_from,
            "judged_on": self.judged_on,
            "border": self.border,
            "held_out": rows,
            "notes": list(self.words),
        }

    def __str__(self) -> str:
        lines = [str(self.output)]
        if self.shift is not None:
            lines.append(f"  {self.method}: dx {self.shift[1]:.4f} (right), dy {self.shift[0]:.4f} (down)")
        lines += [f"  {words}" for words in (*_kernel_words(self.fit, self.likeness), *self.words)]
        border = f"{self.border} px of border left out" if self.border else "whole pictures"
        lines.append(f"  learned from {self.learned_from} pairs; on {self.judged_on} held out, {border}:")
        lines.append(
            f"  {'':<12}{'L1':>10}{'L2':>10}{'mean sq.':>11}{'grad. w.':>11}{'flow dx':>9}{'flow dy':>9}"
            f"{'equal':>9}{'largest':>9}"
        )
        for name, row in self.rows.items():
            e = row.errors
            lines.append(
                f"  {name:<12}{e.l1:>10.6f}{e.l2:>10.6f}{row.mean_square:>11.2e}{e.gradient_weighted:>11.2e}"
                f"{_number(e.flow and e.flow[1])}{_number(e.flow and e.flow[0])}{row.equal:>9.2%}{row.largest:>9g}"
            )
        return "\n".join(lines)


def learn_path(
    source: Path,
    target: Path,
    output: Path,
    *,
    method: str = "kernel",
    steps: int | None = None,
    plot: Path | None = None,
    seed: int = 0,
    say: Say = lambda text: None,
) -> ShiftReport:
    """Learn the shift between two folders of pictures; what `superfine learn-shift` does.

    Pictures are matched by their names below the folders, endings aside. output: an .onnx
    file, with the trained state beside it (.pt); plot: a PNG of errors and flow. steps: of
    training, by default as `STEPS`. Raises UsageError, SourceError, OutputError.
    """
    if method not in SHIFT_METHODS:
        raise UsageError(f"--method {method!r} is none of {', '.join(SHIFT_METHODS)}")
    if steps is not None and steps < 1:
        raise UsageError(f"--steps {steps} is not a number of steps")
    pairs, words = read_pairs(source, target)
    learning, held = _split(pairs, seed)
    say(f"{len(learning)} pairs to learn from, {len(held)} held out")
    chosen: ShiftMethod = method
    fit = fit_kernel(_planes(learning))
    learned = learn_shift(learning, chosen, fit, steps=steps or STEPS[chosen], seed=seed, say=say)
    card = Card(
        name=output.stem,
        scale=1,
        halo=learned.net.halo,
        multiple_of=learned.net.multiple_of,
        needs_fp32=True,
        net=f"shift-{method}",
        colour="rgb",
        summary=_summary(chosen, learned),
        training_data=f"{len(learning)} pairs of {source.name} and {target.name}",
    )
    try:
        export(learned.net, card, output)
        with written_whole(output.with_suffix(".pt")) as part:
            state = {"method": method, "whole": learned.trained.whole, "net": learned.trained.state_dict()}
            torch.save(state, part)
    except OSError as error:
        raise OutputError(f"{output}: can't be written: {error.strerror or error}") from error
    engine = open_engine(read_model(output), "openvino", "fp32")
    border = 2 + max(fit.kernel.reach, max(map(abs, learned.net.whole)) + 2)
    makers: dict[str, Callable[[Array], Array]] = {
        "not moved": lambda pixels: pixels,
        "kernel": partial(_by_kernel, fit.kernel),
        method: lambda pixels: shift_learned(pixels, engine),
    }
    made = {name: [make(pair.source) for pair in held] for name, make in makers.items()}
    targets = [pair.target for pair in held]
    rows = {name: _held_out(results, targets, border) for name, results in made.items()}
    if plot is not None:
        _draw(plot, rows, made[method][0], targets[0], border)
    if method in ("convgan", "vae"):
        words = (*words, _loss_to_kernel(chosen, rows))
    return ShiftReport(
        output=output,
        method=chosen,
        shift=learned.shift,
        fit=fit,
        likeness=closest_method(fit.kernel),
        learned_from=len(learning),
        judged_on=len(held),
        border=border,
        rows=rows,
        words=(*learned.words, *words),
    )


def learn_shift(
    pairs: Sequence[Pair], method: ShiftMethod, fit: Fit, *, steps: int, seed: int = 0, say: Say = lambda text: None
) -> LearnedShift:
    """Learn from pairs. fit: the kernel by least squares, whose whole pixels the nets are given as their start."""
    torch.manual_seed(seed)
    whole = (round(fit.kernel.shift[0]), round(fit.kernel.shift[1]))
    match method:
        case "kernel":
            net = _kernel_net(fit.kernel)
            other = descend(pairs, fit, steps=steps, seed=seed, say=say)
            away = float(np.abs(other.weights - fit.kernel.weights).max())
            words = f"by gradient descent, {steps} steps: no weight differs by more than {away:.1e}"
            like = closest_method(fit.kernel)
            shift = like.shift if like.difference < _LIKE else fit.kernel.shift
            return LearnedShift(net, net, shift, (words,))
        case "stn":
            transformer = SpatialTransformer(whole)
            _train(transformer, pairs, method, steps, seed, say)
            return _fixed(transformer, pairs, seed)
        case _:
            net_of_pictures = SHIFTERS[method](whole)
            _train(net_of_pictures, pairs, method, steps, seed, say)
            return LearnedShift(net_of_pictures, net_of_pictures, None)


def descend(pairs: Sequence[Pair], fit: Fit, *, steps: int, seed: int = 0, say: Say = lambda text: None) -> ShiftKernel:
    """The kernel by gradient descent (Adam) in the frame of `fit`, from equal weights."""
    like = fit.kernel
    start = np.full_like(like.weights, 1 / like.weights.size)
    net = _kernel_net(ShiftKernel(start, like.top, like.left))
    _train(net, pairs, "kernel", steps, seed, say)
    return ShiftKernel(net.weight.detach().numpy()[0, 0].astype(np.float64), like.top, like.left)


# ---- the pairs


def read_pairs(source: Path, target: Path) -> tuple[list[Pair], tuple[str, ...]]:
    """The pictures of two folders, matched by name, and what a person should know about those left out.

    Upright, without alpha. Raises SourceError where a pair doesn't fit together, or fewer than two are there.
    """
    firsts, seconds = _named(source), _named(target)
    common = sorted(firsts.keys() & seconds.keys())
    words = []
    if alone := sorted(firsts.keys() ^ seconds.keys()):
        words.append(f"{len(alone)} pictures have no partner, such as {alone[0]}")
    if len(common) < 2:
        raise SourceError(
            f"{source} and {target} have {len(common)} pictures with the same name; want two or more, one of which is"
            " held out"
        )
    pairs: list[Pair] = []
    pixels = 0
    for name in common:
        pair = Pair(name, _read(firsts[name]), _read(seconds[name]))
        if pair.source.shape != pair.target.shape or pair.source.dtype != pair.target.dtype:
            kinds = [f"{each.shape[1]}x{each.shape[0]}x{each.shape[2]} {each.dtype}" for each in pair[1:]]
            raise SourceError(
                f"{firsts[name]} is {kinds[0]} and {seconds[name]} is {kinds[1]}; partners have one size and kind"
            )
        pixels += pair.source.shape[0] * pair.source.shape[1]
        if pixels > _MOST_PIXELS and len(pairs) >= 2:
            words.append(f"{len(common) - len(pairs)} of {len(common)} pairs left out: the first hold enough pixels")
            break
        pairs.append(pair)
    return pairs, tuple(words)


def _named(folder: Path) -> dict[str, Path]:
    if not os.path.isdir(folder):
        raise SourceError(f"{folder}: there is no such folder of pictures")
    known = {suffix for entry in FORMATS.values() for suffix in entry.suffixes}
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in known and path.is_file() and not path.name.startswith("."):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise SourceError(f"{path} and {found[name]} have the same name, so their partner isn't clear")
            found[name] = path
    return found


def _read(path: Path) -> Array:
    picture = open_picture(path, upright=True)
    pixels = np.concatenate(list(picture.bands()))
    return pixels[..., :-1] if picture.alpha else pixels


def _split(pairs: Sequence[Pair], seed: int) -> tuple[list[Pair], list[Pair]]:
    """To learn from, and held out."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    held = set(order[: max(1, len(pairs) // _HELD_OUT)].tolist())
    return [pair for place, pair in enumerate(pairs) if place not in held], [pairs[place] for place in sorted(held)]


def _planes(pairs: Sequence[Pair]) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Each channel by itself, in 0..1."""
    return [
        (_unit(source[..., channel]), _unit(target[..., channel]))
        for _, source, target in pairs
        for channel in range(source.shape[2])
    ]


def _unit(pixels: Array) -> npt.NDArray[np.float64]:
    return np.divide(pixels, KINDS[pixels.dtype], dtype=np.float64)


class _Patches:
    """Random patches: the source after its whole move with a margin around, and the target."""

    def __init__(self, pairs: Sequence[Pair], whole: tuple[int, int], side: int, margin: int, seed: int) -> None:
        self._whole, self._side, self._margin = whole, side, margin
        self._draw = np.random.default_rng(seed)
        need = [side + 2 * margin + abs(step) for step in whole]
        self._pairs = [pair for pair in pairs if all(np.greater_equal(pair.source.shape[:2], need))]
        if not self._pairs:
            raise SourceError(f"no pair has {need[1]} x {need[0]} pixels, which training needs; give larger pictures")
        sizes = np.array([pair.source.shape[0] * pair.source.shape[1] for pair in self._pairs], float)
        self._shares = sizes / sizes.sum()

    def next(self) -> tuple[Tensor, Tensor]:
        """(N, 3, side + 2 margins, the same) and (N, 3, side, side), in 0..1."""
        sources, targets = [], []
        margin, side = self._margin, self._side
        for place in self._draw.choice(len(self._pairs), _BATCH, p=self._shares):
            _, source, target = self._pairs[place]
            corner = []
            for step, size in zip(self._whole, source.shape[:2], strict=True):
                low = max(0, margin + step)
                high = min(size, size + step - margin) - side
                corner.append(int(self._draw.integers(low, high + 1)))
            row, col = corner
            top, left = row - self._whole[0] - margin, col - self._whole[1] - margin
            wide = side + 2 * margin
            sources.append(_tensor(source[top : top + wide, left : left + wide]))
            targets.append(_tensor(target[row : row + side, col : col + side]))
        return torch.stack(sources), torch.stack(targets)


def _tensor(pixels: Array) -> Tensor:
    planes = torch.from_numpy(to_unit(pixels).transpose(2, 0, 1).copy())
    return planes.expand(3, -1, -1)


# ---- training


def _train(net: Shifter, pairs: Sequence[Pair], method: ShiftMethod, steps: int, seed: int, say: Say) -> None:
    """Adam, its rate falling along a cosine; the whole pixels are cut out of the pictures, not moved."""
    margin = -(-max(net.radius, 4) // net.multiple_of) * net.multiple_of
    side = _STN_PATCH if method == "stn" else _PATCH
    patches = _Patches(pairs, net.whole, side, margin, seed)
    inner = slice(margin, margin + side)
    optimizer = torch.optim.Adam(net.parameters(), lr=_RATES[method])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    critic = ShiftCritic() if method == "convgan" else None
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=1e-4) if critic is not None else None
    whole, net.whole = net.whole, (0, 0)
    net.train()
    try:
        for step in range(1, steps + 1):
            source, target = patches.next()
            extra = torch.zeros(())
            if isinstance(net, VariationalShifter):
                output, divergence = net.drawn(source)
                extra = _DIVERGENCE * divergence
            else:
                output = net(source)
            output = output[..., inner, inner]
            if critic is not None and critic_optimizer is not None:
                given = source[..., inner, inner]
                extra = _ADVERSARIAL * adversarial(critic(given, output))
                loss = _distance(output, target) + extra
                _step(optimizer, loss)
                _step(critic_optimizer, critic_loss(critic(given, target), critic(given, output.detach())))
            else:
                loss = _distance(output, target) + extra
                _step(optimizer, loss)
            schedule.step()
            if step % max(1, steps // 5) == 0:
                say(f"{method}, step {step} of {steps}: loss {loss.item():.3g}")
    finally:
        net.whole = whole
    net.eval()


def _distance(output: Tensor, target: Tensor) -> Tensor:
    """Gradient-weighted, and blind to what the target could not hold."""
    clipped = ((target <= 0) & (output < 0)) | ((target >= 1) & (output > 1))
    return gradient_weighted(torch.where(clipped, target, output), target)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _kernel_net(kernel: ShiftKernel) -> KernelShifter:
    """The kernel as a net: whole pixels first, then a small kernel around its middle."""
    rows, cols = kernel.weights.shape
    whole = (-(kernel.top + rows // 2), -(kernel.left + cols // 2))
    corner = (kernel.top + whole[0], kernel.left + whole[1])
    return KernelShifter(whole, torch.from_numpy(kernel.weights), corner)


@torch.no_grad()
def _fixed(net: SpatialTransformer, pairs: Sequence[Pair], seed: int) -> LearnedShift:
    """A spatial transformer that says the same for every picture, as the kernel that this is."""
    patches = _Patches(pairs, net.whole, _STN_PATCH, 4, seed + 1)
    said = torch.cat([net.move(patches.next()[0]) for _ in range(8)]).double()
    mean, spread = said.mean(0), said.std(0)
    matrix = float(mean[2:].abs().max())
    down, right = (float(step) + whole for step, whole in zip(mean[:2], net.whole, strict=True))
    varies = f"{float(spread[1]):.4f} px in dx and {float(spread[0]):.4f} in dy"
    words = (
        f"what it says varies by {varies} from patch to patch; the file holds the mean, as a kernel",
        f"its matrix is {matrix:.1e} from the identity, which the file has instead",
    )
    tall, broad = (tap_weights("bicubic", step - round(step)) for step in (down, right))
    kernel = ShiftKernel(np.outer(tall, broad), -round(down) - 2, -round(right) - 2)
    return LearnedShift(_kernel_net(kernel), net, (down, right), words)


# ---- judging


def _by_kernel(kernel: ShiftKernel, pixels: Array) -> Array:
    unit = _unit(pixels)
    made = np.stack([kernel(unit[..., channel]) for channel in range(pixels.shape[2])], axis=-1)
    return to_kind(made.astype(np.float32), pixels.dtype)


def _held_out(results: Sequence[Array], targets: Sequence[Array], border: int) -> HeldOut:
    each, equal, samples, largest = [], 0, 0, 0.0
    for result, target in zip(results, targets, strict=True):
        each.append(shift_errors(to_unit(result), to_unit(target), border))
        inner = tuple(slice(border, side - border) for side in result.shape[:2])
        scale = 255.0 if result.dtype == np.float32 else 1.0
        away = np.abs(np.subtract(result[inner], target[inner], dtype=np.float64)) * scale
        equal += int(np.count_nonzero(away < 0.5))
        samples += away.size
        largest = max(largest, float(away.max()))
    return HeldOut(mean_errors(each), equal / samples, largest)


def _number(pixels: float | None) -> str:
    return f"{'-' if pixels is None else format(pixels, '.3f'):>9}"


def _summary(method: ShiftMethod, learned: LearnedShift) -> str:
    if learned.shift is None:
        return f"a learned shift, {method}"
    return f"a learned shift, {method}: dx {learned.shift[1]:.4f}, dy {learned.shift[0]:.4f}"


def _kernel_words(fit: Fit, likeness: Likeness) -> list[str]:
    kernel = fit.kernel
    rows, cols = kernel.weights.shape
    down, right = kernel.shift
    like = f"none of the known methods (centre of mass dx {right:.4f}, dy {down:.4f})"
    if likeness.difference < _LIKE:
        down, right = likeness.shift
        like = f"{likeness.method} by dx {right:.4f}, dy {down:.4f}, to {likeness.difference:.1e}"
    size = f"{rows} x {cols} weights from {fit.samples:,} samples"
    lines = [f"least squares: {size}, standard error {fit.errors.max():.1e} at most", f"it is {like}"]
    if max(rows, cols) <= 8:
        lines += ["  ".join(f"{weight:9.5f}" for weight in line) for line in kernel.weights]
    return lines


def _loss_to_kernel(method: ShiftMethod, rows: dict[str, HeldOut]) -> str:
    ours, best = rows[method].mean_square, rows["kernel"].mean_square
    if best == 0:
        return f"{method}: mean squared difference {ours:.2e}, where the kernel has none"
    return f"{method} loses to kernel by {10 * np.log10(ours / best):.1f} dB of mean squared difference"


def _draw(path: Path, rows: dict[str, HeldOut], result: Array, target: Array, border: int) -> None:
    """Bars of the errors, and the map of the flow that is left in the first picture held out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    bars, image = figure.subplots(1, 2)
    kinds: dict[str, Callable[[ShiftErrors], float]] = {
        "L1": lambda errors: errors.l1,
        "L2": lambda errors: errors.l2,
        "gradient-weighted": lambda errors: errors.gradient_weighted,
    }
    width = 0.8 / len(rows)
    for place, (name, row) in enumerate(rows.items()):
        at = [kind + (place - (len(rows) - 1) / 2) * width for kind in range(len(kinds))]
        bars.bar(at, [max(measure(row.errors), 1e-12) for measure in kinds.values()], width, label=name)
    bars.set_yscale("log")
    bars.set_xticks(range(len(kinds)), list(kinds))
    bars.set_title("errors on the pairs held out, of white")
    figure.legend(loc="outside lower left", ncols=len(rows))
    inner = tuple(slice(border, side - border) for side in result.shape[:2])
    image.set_axis_off()
    flow = flow_between(to_unit(result), to_unit(target))
    if flow is not None:
        length = np.hypot(*np.moveaxis(flow[inner], -1, 0))
        shown = image.imshow(length, vmin=0, vmax=max(0.05, float(np.quantile(length, 0.98))))
        figure.colorbar(shown, ax=image, label="px")
        image.set_title("optical flow from the result to the target")
    try:
        with written_whole(path) as part:
            figure.savefig(part, format="png", dpi=110)
    except OSError as error:
        raise OutputError(f"{path}: can't be written: {error.strerror or error}") from error
