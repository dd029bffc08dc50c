"""One picture teaches the network that finishes it, after its own kernel has been undone.

The picture stands for a large one (zero-shot, Shocher et al. 2018, arXiv:1712.06087): it is made
small by its own kernel and enlarged again in closed form, and the network learns to bring it back.
As it is, the picture would teach its own blur, so it is first freed of that: enlarged as far as the
network can, and reduced by bicubic. Beside that what the network makes of the picture's own start,
made small again, has to be the picture. Some blocks take part in no loss: a network that doesn't do
better on them, of the picture as it is and of the one without its blur, is not kept.
"""

import copy
import hashlib
import pickle
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from superfine.atomic import written_whole
from superfine.classical.kernels import KernelReduction, check_kernel, middle
from superfine.classical.resample import matlab_resize
from superfine.color import FULL_LUMA
from superfine.engine import open_engine
from superfine.errors import OutputError, ShapeError, TrainingError, UsageError
from superfine.models import Model, find_model, with_card
from superfine.train.losses import reach, reduced, ssim, total_variation
from superfine.train.nets.layers import Net
from superfine.train.pretrained import load_pretrained

__all__ = ["LEAST_SIDE", "AdaptListener", "AdaptMoment", "Adaptation", "Adapted", "adapt_network"]

Floats = npt.NDArray[np.floating]

#: The least side of a picture that can teach, in pixels.
LEAST_SIDE: Final = 48
# Of a larger picture a window of this side teaches, the one with the most in it.
_WINDOW: Final = 512
# So many times the picture is made small by a kernel that is a little wrong, as an estimate is.
_MISJUDGED: Final = 5
_MISJUDGED_BY: Final = 0.08
# Blocks that no loss looks at: their side, and one in so many.
_BLOCK: Final = 8
_HELD_OUT: Final = 8
_LOOK_EVERY: Final = 25
_SAVE_SECONDS: Final = 5.0
# What is left of the budget for the file, which takes the same time for all pictures.
_EXPORT_SECONDS: Final = 2.0
# Of one; an eighth of an 8-bit level.
_TOLERANCE: Final = 5e-4
_SSIM_WINDOW: Final = 11
# An error below this, of one, is none.
_NO_ERROR: Final = 1e-6
_EMA: Final = 0.98
# What facts of a state are called on the command line.
_SETTINGS: Final = {"kernel": "--kernel", "noise": "--noise", "scale": "--scale", "source": "--model"}
_WARM_UP: Final = 10


class AdaptMoment(NamedTuple):
    """Where an adaptation is."""

    step: int
    steps: int
    loss: float
    seconds_left: float
    """Until the steps or the budget end, the export included."""


class AdaptListener:
    """What an adaptation tells; override what you need."""

    def say(self, text: str) -> None:
        """One sentence."""

    def step(self, moment: AdaptMoment) -> None:
        """A step is done."""


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How a picture teaches. The rate is constant, so that a run may end at any step."""

    steps: int = 200
    rate: float = 1e-4
    patch: int = 64
    """Side in pixels of the picture that stands for a large one, even."""
    batch: int = 8
    consistent: int = 2
    """Patches of the picture's own start in a step."""
    squared: float = 1.0
    """Weight of the mean squared error of the result made small again (alpha)."""
    structure: float = 0.01
    """Of its 1 - SSIM (beta)."""
    variation: float = 1e-5
    """Of the result's total variation (gamma)."""
    seed: int = 0


@dataclass(frozen=True)
class Adapted:
    """What a picture has taught."""

    model: Model
    """The adapted network, or where it is not kept the one it started from."""
    kept: bool
    """Whether the blocks that no loss looked at came out better."""
    before: float
    """RMS error on those blocks in 8-bit levels, of both pictures, by the network it started from."""
    after: float
    """The same, by the best of the networks on the way; the start where none did better on both."""
    steps: int
    seconds: float
    """Of this call."""
    finished: bool
    """False where the budget ended it early."""


def adapt_network(
    small: Floats,
    scale: int,
    kernel: Floats,
    noise: float,
    source: str,
    *,
    budget_seconds: float,
    state_path: Path | None = None,
    overwrite: bool = False,
    listener: AdaptListener | None = None,
    adaptation: Adaptation | None = None,
) -> Adapted:
    """Teach the luma network `source` of scale 1 the picture `small`, for the enlargement of that picture.

    small: (h, w, 1 or 3), RGB in 0..1; kernel: (n, m), in large pixels of `scale`; noise: its standard
    deviation in 8-bit levels, rounding not counted; source: a shipped network's name or an exported file.
    budget_seconds: wall clock for the whole call, looked at after each step. state_path: written whole
    every few seconds; where it is there already, the call goes on from it as if it had never stopped.
    overwrite: a file there that is no state, or that of another picture or other settings, is replaced, not refused.
    Raises UsageError for a kernel, budget or network that doesn't fit, ShapeError for a picture that
    is none or too small, TrainingError where the state is another's or a loss is not finite, OutputError.
    """
    started = time.monotonic()
    listener, how = listener or AdaptListener(), adaptation or Adaptation()
    if not budget_seconds > 0:
        raise UsageError(f"a budget of {budget_seconds:g} s leaves no time; give seconds above 0")
    model = _source(source)
    kernel, plane = check_kernel(kernel), _luma(small)
    facts = {
        "picture": _hash(plane),
        "kernel": _hash(kernel),
        "scale": scale,
        "noise": noise,
        "source": model.sha256,
        "adaptation": asdict(how),
    }
    with _deterministic():
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(how.seed)  # an expanded layer holds more than what is lent
            net = load_pretrained(source).build()
        run = _Run(net, _prepare(net, _window(plane), scale, kernel, noise, how.seed), how)
        if state_path is not None and state_path.exists():
            try:
                run.load(state_path, facts)
                listener.say(f"{state_path}: goes on from step {run.step} of {how.steps}")
            except TrainingError:
                if not overwrite:
                    raise
                listener.say(f"{state_path}: is of another adaptation; begins anew")
        until = started + budget_seconds - _EXPORT_SECONDS
        first, began, saved = run.step, time.monotonic(), time.monotonic()
        while run.step < how.steps and time.monotonic() < until:
            loss = run.advance()
            now = time.monotonic()
            pace = (now - began) / (run.step - first)
            left = max(0.0, min((how.steps - run.step) * pace, until - now))
            listener.step(AdaptMoment(run.step, how.steps, loss, left + _EXPORT_SECONDS))
            if state_path is not None and (now - saved > _SAVE_SECONDS):
                run.save(state_path, facts)
                saved = now
        run.look()
        if state_path is not None and run.step > first:
            run.save(state_path, facts)
    kept = run.share < 1
    return Adapted(
        _exported(run, model, facts) if kept else model,
        kept,
        255 * float(np.sqrt(np.mean(np.square(run.before)))),
        255 * float(np.sqrt(np.mean(np.square(run.best)))),
        run.step,
        time.monotonic() - started,
        run.step == how.steps,
    )


def _source(source: str) -> Model:
    """The network to start from. Raises UsageError where it isn't a luma network of scale 1."""
    found = find_model(source)
    if len(found) != 1 or found[0].card.scale != 1 or not found[0].card.net:
        raise UsageError(f"{source}: is no network of scale 1 from our table; name refiner-x1, or a file made from it")
    return found[0]


def _luma(small: Floats) -> Floats:
    """(h, w, 1 or 3) in 0..1 -> (h, w) float64. Raises ShapeError."""
    if small.ndim != 3 or small.shape[2] not in (1, 3):
        raise ShapeError(f"want a picture (h, w, 1 or 3), got {small.shape}; leave alpha out")
    if min(small.shape[:2]) < LEAST_SIDE:
        raise ShapeError(
            f"a picture of {small.shape[1]} x {small.shape[0]} px is too small to teach; want {LEAST_SIDE} px a side"
        )
    plane: Floats = small.astype(np.float64) @ (FULL_LUMA if small.shape[2] == 3 else np.ones(1))
    if not np.isfinite(plane).all():
        raise ShapeError("the picture holds NaN or infinity; mend it first")
    return plane


def _hash(values: Floats) -> str:
    return hashlib.sha256(repr(values.shape).encode() + np.ascontiguousarray(values, np.float64).tobytes()).hexdigest()


def _window(plane: Floats) -> Floats:
    """The plane, or where it is large the window of it with the steepest gradients."""
    tops, lefts = (range(0, max(1, side - _WINDOW // 2), _WINDOW // 2) for side in plane.shape)
    windows = [plane[top : top + _WINDOW, left : left + _WINDOW] for top in tops for left in lefts]
    return max(windows, key=lambda each: float(np.abs(np.diff(each, axis=0)).sum() + np.abs(np.diff(each)).sum()))


# ---- what is learned


class _Lesson(NamedTuple):
    """Planes of one picture, float32 in 0..1."""

    starts: Tensor
    """(1 + misjudged, H, W): the target made small and enlarged again; sides multiples of 2 * scale."""
    target: Tensor
    """(H, W): the picture without its blur."""
    small: Tensor
    """(H, W): the picture itself."""
    own: Tensor
    """(H, W): that made small and enlarged again."""
    taught: Tensor
    """(H, W): 1, or 0 in blocks that no loss looks at."""
    large: Tensor
    """(scale*H, scale*W): the picture's own start."""
    kernel: Tensor
    """(1, n, m)."""
    scale: int


def _prepare(net: Net, plane: Floats, scale: int, kernel: Floats, noise: float, seed: int) -> _Lesson:
    """What `net` is to learn of the luma `plane` (h, w) in 0..1."""
    rows, cols = (side // (2 * scale) * 2 * scale for side in plane.shape)
    plane, draw = plane[:rows, :cols], np.random.default_rng((seed, 0))
    large = _tensor(KernelReduction(kernel, scale, (rows, cols)).start(plane, noise))
    with torch.no_grad():
        sharp = net(large[None, None])[0, 0].clamp(0, 1).numpy()
    levels = np.round(sharp * 255).astype(np.uint8)[..., None]
    target = matlab_resize(levels, (rows, cols))[..., 0] / 255
    again = KernelReduction(kernel, scale, (rows // scale, cols // scale))
    own = _tensor(again.start(np.round(again(plane) * 255) / 255, noise))
    starts = []
    for made in [kernel, *(_misjudged(kernel, scale, draw) for _ in range(_MISJUDGED))]:
        smaller = replace(again, kernel=made)(target) + draw.normal(0, noise / 255, again.size)
        starts.append(_tensor(again.start(np.round(np.clip(smaller, 0, 1) * 255) / 255, noise)))
    blocks = draw.permutation(-(-rows // _BLOCK) * -(-cols // _BLOCK)).reshape(-1, -(-cols // _BLOCK))
    taught = np.kron(blocks % _HELD_OUT > 0, np.ones((_BLOCK, _BLOCK)))[:rows, :cols]
    weights = torch.from_numpy(kernel.astype(np.float32))[None]
    return _Lesson(torch.stack(starts), _tensor(target), _tensor(plane), own, _tensor(taught), large, weights, scale)


def _tensor(plane: Floats) -> Tensor:
    return torch.from_numpy(np.clip(plane, 0, 1).astype(np.float32))


def _misjudged(kernel: Floats, scale: int, draw: np.random.Generator) -> Floats:
    """The kernel stretched by a little along two axes that lie anyhow, around the centre rule's point."""
    rows, cols = kernel.shape
    centre = np.array([middle(rows, scale), middle(cols, scale)])
    angle, stretch = draw.uniform(0, np.pi), np.exp(draw.normal(0, _MISJUDGED_BY, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    place = np.mgrid[:rows, :cols].reshape(2, -1) - centre[:, None]
    place = turn.T @ (stretch[:, None] * (turn @ place)) + centre[:, None] + 1
    place = np.clip(place, 0, np.array([[rows + 0.999], [cols + 0.999]]))  # on a kernel with zeros around
    (top, left), (down, right) = place.astype(int), place % 1
    padded = np.pad(kernel, ((1, 2), (1, 2)))
    above = padded[top, left] * (1 - right) + padded[top, left + 1] * right
    below = padded[top + 1, left] * (1 - right) + padded[top + 1, left + 1] * right
    weight = (above * (1 - down) + below * down).reshape(rows, cols)
    made: Floats = weight / weight.sum()
    return made


class _Run:
    """The network on its way. A step is a pure function of the one before, so that a resumed run takes the same way."""

    def __init__(self, net: Net, lesson: _Lesson, how: Adaptation) -> None:
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average, self.kept = copy.deepcopy(self.net), copy.deepcopy(self.net)
        self._lesson, self._how, self._fast = lesson, how, _is_bf16_fast()
        self._optimizer = torch.optim.Adam(self.net.parameters(), lr=how.rate)
        self.step = self._looked = 0
        self.before = self.best = self._errors(self.net)
        self.share = 1.0

    def advance(self) -> float:
        """One step; its loss. Raises TrainingError where that isn't finite."""
        how, step = self._how, self.step + 1
        for group in self._optimizer.param_groups:
            group["lr"] = how.rate * min(1, step / _WARM_UP)
        draw = np.random.default_rng((how.seed, step))
        loss = self._internal(draw)
        if how.squared or how.structure or how.variation:
            loss = loss + self._self_supervised(draw)
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {float(loss.detach())} at step {step} of the adaptation; lower its rate")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        keep = min(_EMA, step / (step + 10))
        with torch.no_grad():
            for weight, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
                weight.lerp_(now, 1 - keep)
        self.step = step
        if step % _LOOK_EVERY == 0:
            self.look()
        return float(loss.detach())

    def _internal(self, draw: np.random.Generator) -> Tensor:
        """L1 between the picture without its blur and what the network makes of its smaller self."""
        starts, target, taught = self._lesson.starts, self._lesson.target, self._lesson.taught
        side = min(self._how.patch, *target.shape)
        patches = []
        for _ in range(self._how.batch):
            planes = torch.stack((starts[int(draw.integers(len(starts)))], target, taught))
            patches.append(_turned(_patch(planes, side, draw), draw))
        start, target, taught = torch.stack(patches, 1)[:, :, None]  # each (N, 1, side, side)
        wrong = (self._made(start) - target).abs() * taught
        mean: Tensor = wrong.sum() / taught.sum().clamp_min(1)
        return mean

    def _self_supervised(self, draw: np.random.Generator) -> Tensor:
        """alpha * L2 + beta * (1 - SSIM) between the picture and the result made small again, + gamma * TV of it."""
        how, (_, _, target, _, taught, large, kernel, scale) = self._how, self._lesson
        margin = max(reach(taps, scale) for taps in kernel.shape[1:])
        side = min(max(how.patch // scale, _SSIM_WINDOW + 1) // 2 * 2 + 2 * margin, *target.shape)
        places = [[int(draw.integers(0, extent - side + 1)) for extent in target.shape] for _ in range(how.consistent)]
        small, seen = (
            torch.stack([each[top : top + side, left : left + side] for top, left in places])[:, None]
            for each in (target, taught)
        )
        wide = side * scale
        starts = [large[scale * top : scale * top + wide, scale * left : scale * left + wide] for top, left in places]
        output = self._made(torch.stack(starts)[:, None])
        inner = slice(margin, -margin or None)
        again, small, seen = (each[..., inner, inner] for each in (reduced(output, kernel, scale), small, seen))
        # Where a block is held out the loss is shown the network's own value, which teaches nothing.
        small = torch.where(seen > 0, small, again.detach())
        loss = how.squared * (again - small).square().mean() + how.variation * total_variation(output)
        return loss + how.structure * ssim(again, small) if how.structure else loss

    def _made(self, start: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._fast):
            made: Tensor = self.net(start.contiguous(memory_format=torch.channels_last))
        return made.float()

    def look(self) -> None:
        """Keep the average of the way so far where the held-out blocks find it the best yet."""
        if self._looked == self.step:
            return
        self._looked = self.step
        errors = self._errors(self.average)
        share = max(now / max(then, _NO_ERROR) for now, then in zip(errors, self.before, strict=True))
        if share < self.share:
            self.share, self.best = share, errors
            self.kept.load_state_dict(self.average.state_dict())

    @torch.no_grad()
    def _errors(self, net: Net) -> tuple[float, float]:
        """RMS errors of the held-out blocks, in fp32: of the picture without its blur, and of the picture as it is."""
        lesson, held = self._lesson, self._lesson.taught == 0
        pairs = ((lesson.starts[0], lesson.target), (lesson.own, lesson.small))
        wrong = [(net(start[None, None])[0, 0].clamp(0, 1) - wanted).double()[held] for start, wanted in pairs]
        of_target, of_own = (float(each.square().mean().sqrt()) for each in wrong)
        return of_target, of_own

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """Write all that is needed to go on. Raises OutputError."""
        content = {
            "facts": facts,
            "fast": self._fast,
            "step": self.step,
            "looked": self._looked,
            "best": self.best,
            "share": self.share,
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "kept": self.kept.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        try:
            with written_whole(path) as part:
                torch.save(content, part)
        except OSError as error:
            raise OutputError(f"{path}: the state can't be written: {error.strerror or error}") from error

    def load(self, path: Path, facts: dict[str, Any]) -> None:
        """Go on from `path`. Raises TrainingError where it is of another adaptation, or no state."""
        wrong = TrainingError(
            f"{path}: is not the state of an adaptation, or is cut off; remove it to begin anew, or give --overwrite"
        )
        try:
            if not zipfile.is_zipfile(path):
                raise wrong
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:
            raise wrong from error
        if not (isinstance(content, dict) and {"facts", "kept", "optimizer", "share"} <= set(content)):
            raise wrong
        if moved := sorted(name for name in facts if content["facts"].get(name) != facts[name]):
            others = " and another ".join(_SETTINGS.get(name, name) for name in moved)
            raise TrainingError(
                f"{path}: was made with another {others}; give the same again, or begin anew by --overwrite"
            )
        for name in ("net", "average", "kept"):
            getattr(self, name).load_state_dict(content[name])
        self._optimizer.load_state_dict(content["optimizer"])
        self.step, self._looked, self._fast = content["step"], content["looked"], content["fast"]
        self.best, self.share = content["best"], content["share"]


def _patch(planes: Tensor, side: int, draw: np.random.Generator) -> Tensor:
    """A square of (C, H, W)."""
    top, left = (int(draw.integers(0, extent - side + 1)) for extent in planes.shape[1:])
    return planes[:, top : top + side, left : left + side]


def _turned(planes: Tensor, draw: np.random.Generator) -> Tensor:
    """One of the eight ways to turn and flip (C, H, W)."""
    transposed, upside, mirrored = draw.integers(0, 2, 3)
    flips = [axis for axis, flipped in ((1, upside), (2, mirrored)) if flipped]
    return (planes.mT if transposed else planes).flip(flips)


def _is_bf16_fast() -> bool:
    """Whether this CPU multiplies bf16 itself; elsewhere it would cost time instead of saving it."""
    known = torch.cpu.get_capabilities()
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))


@contextmanager
def _deterministic() -> Iterator[None]:
    exact = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(exact)


def _exported(run: _Run, model: Model, facts: dict[str, Any]) -> Model:
    """The network that is kept as ONNX, whose card says where it came from."""
    card = replace(
        model.card,
        name=f"{model.card.name}-adapted",
        summary=f"{model.card.name} adapted to one picture by {run.step} steps; for that picture alone",
        source=f"{model.card.name}, sha256 {model.sha256}",
        training_data=f"{model.card.training_data}; then one picture, sha256 {facts['picture']}",
        psnr={},
        protocol="",
    )
    folded = run.kept.folded().to(memory_format=torch.contiguous_format)
    adapted = Model(card, with_card(_with_weights(model.content, folded), card), card.name)
    pixels = np.random.default_rng(0).random((1, 24, 32, 3), dtype=np.float32)
    with torch.no_grad():
        wanted = folded(torch.from_numpy(pixels).permute(0, 3, 1, 2))[0].clamp(0, 1).permute(1, 2, 0).numpy()
    difference = float(np.abs(open_engine(adapted, "openvino", "fp32")(pixels) - wanted).max())
    if not difference <= _TOLERANCE:
        raise TrainingError(f"{card.name}: ONNX and torch differ by {difference:.2g}, more than {_TOLERANCE}")
    return adapted


@torch.no_grad()
def _with_weights(content: bytes, folded: Net) -> bytes:
    """The ONNX file of a network of convolutions with the weights of `folded`, its own kind; no export is as quick.

    Where the file holds fp16, `folded` is rounded to that too. Raises TrainingError where the two don't fit.
    """
    proto = onnx.load_from_string(content)
    graph, fresh = proto.graph, []
    stored = {entry.name: entry for entry in graph.initializer}
    convolutions = {name: each for name, each in folded.named_modules() if isinstance(each, torch.nn.Conv2d)}
    for node in graph.node:
        name = node.input[1].removesuffix(".fp32").removesuffix(".weight") if node.op_type == "Conv" else ""
        if (layer := convolutions.pop(name, None)) is None:
            continue
        entry = stored[f"{name}.weight"]
        weight = layer.weight.numpy().astype(numpy_helper.to_array(entry).dtype)
        layer.weight.copy_(torch.from_numpy(weight.astype(np.float32)))
        entry.CopyFrom(numpy_helper.from_array(weight, entry.name))
        if layer.bias is not None:
            fresh.append(numpy_helper.from_array(layer.bias.numpy(), f"{name}.bias"))
            node.input[2:] = [fresh[-1].name]
    if convolutions:
        raise TrainingError(f"the network's file has no {', '.join(convolutions)}; export it again from its run")
    used = {name for node in graph.node for name in node.input} - {entry.name for entry in fresh}
    kept = [entry for entry in graph.initializer if entry.name in used] + fresh
    del graph.initializer[:]
    graph.initializer.extend(kept)
    made: bytes = proto.SerializeToString()
    return made
