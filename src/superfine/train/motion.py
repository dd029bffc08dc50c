"""A photo -> a window of frames in which it moves, and how a video camera's file has them.

The scene of one sample moves as one plane by a drawn velocity, turn and zoom, which change a little from frame to
frame; in some samples a part of another picture moves in front of it. The middle frame is the photo itself, not
resampled, so the target is as sharp as it was. A recording adds noise and H.264's traces: the small frames of a whole
batch lie side by side in one clip, made by the encoder that people's cameras and sites use.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from superfine.errors import UsageError

__all__ = ["Motion", "Recording", "blurred", "coded", "recorded", "window"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]

# Frames that the encoder sees before and after the window, so that its middle is coded as most frames are.
_BEFORE: Final = 1
_AFTER: Final = 1
_BLOCK: Final = 16


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How the frames of a window move: shares in 0..1, lengths in pixels of the small picture for a frame's time.

    Raises UsageError for a value out of its limits.
    """

    still: float = 0.2
    """Share of the samples in which nothing moves."""
    speed: float = 8.0
    """The fastest; squares of a uniform draw make slow ones likelier."""
    jerk: float = 0.5
    """Deviation of the velocity from frame to frame."""
    turn: float = 0.5
    """The largest turn, in degrees."""
    zoom: float = 0.01
    """The largest change of size."""
    occluded: float = 0.4
    """Share of the moving samples in which a part of another picture moves in front."""
    reducer: Literal["bicubic", "box", "gaussian"] = "bicubic"
    """What makes the frames small: MATLAB's bicubic, or one of those that `NullSpace` undoes."""
    coded: float = 0.0
    """Share of the batches whose large frames come from H.264, as those of most clips do."""
    coded_crf: tuple[int, int] = (12, 26)
    """Its rate factor then, least and most."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "coded_crf", _crf(self.coded_crf))
        limits = {"still": 1, "speed": 16, "jerk": 4, "turn": 5, "zoom": 0.1, "occluded": 1, "coded": 1}
        for name, most in limits.items():
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value <= most):
                raise UsageError(f"{name} = {value!r}; want a number from 0 to {most}")

    @property
    def reach(self) -> int:
        """Small pixels around a patch that its frames may show."""
        return int(np.ceil(self.speed + 3 * self.jerk)) + 2


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What a camera and a codec do to small frames. Raises UsageError for a value out of its limits."""

    crf: tuple[int, int] = (18, 36)
    """H.264's rate factor, least and most; one for a batch."""
    blur_sigma: float = 0.8
    """The widest blur of the large picture, in pixels of the small one."""
    noise_sigma: float = 4.0
    """The most noise, in 8-bit levels, of each frame its own."""
    clean: float = 0.2
    """Share of the samples without blur and noise."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "crf", _crf(self.crf))
        for name, most in {"blur_sigma": 4, "noise_sigma": 50, "clean": 1}.items():
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value <= most):
                raise UsageError(f"{name} = {value!r}; want a number from 0 to {most}")


def _crf(given: tuple[int, int]) -> tuple[int, int]:
    crf = tuple(given)
    if len(crf) != 2 or not 0 <= crf[0] <= crf[1] <= 51:
        raise UsageError(f"crf = {given!r}; want [least, most] within 0 and 51")
    return crf[0], crf[1]


def window(large: torch.Tensor, frames: int, scale: int, motion: Motion, draw: np.random.Generator) -> torch.Tensor:
    """Let each sample move: (N, S, S) levels 0..255, float32 -> (N, frames, S, S).

    The middle frame isn't resampled; frames around it by Keys' cubic, borders replicated. What is in front in a
    sample comes from the one before it in the batch.
    """
    count, side = large.shape[:2]
    paths = [_path(count, frames, scale, motion, draw, side) for _ in range(2)]
    front = large.roll(1, 0)
    covers = _covers(count, side, motion, draw).to(large.device)
    both = torch.stack([front, covers], 1)
    middle, result = frames // 2, []
    for at in range(frames):
        if at == middle:
            scene, veil = large, both
        else:
            scene = _moved(large[:, None], paths[0][:, at])[:, 0]
            veil = _moved(both, paths[1][:, at])
        cover = veil[:, 1].clamp(0, 1)
        result.append(scene + cover * (veil[:, 0] - scene))
    return torch.stack(result, 1)


def _path(count: int, frames: int, scale: int, motion: Motion, draw: np.random.Generator, side: int) -> torch.Tensor:
    """(N, frames, 2, 3): where each frame takes its pixels from, in the coordinates of `affine_grid`."""
    moves = draw.random(count) >= motion.still
    speed = motion.speed * draw.random(count) ** 2 * moves
    angle = draw.uniform(0, 2 * np.pi, count)
    velocity = np.stack([speed * np.cos(angle), speed * np.sin(angle)], 1)
    jerk = draw.normal(0, motion.jerk, (count, frames, 2)) * moves[:, None, None]
    turn = np.deg2rad(draw.uniform(-motion.turn, motion.turn, count)) * moves
    zoom = draw.uniform(-motion.zoom, motion.zoom, count) * moves
    times = np.arange(frames) - frames // 2
    shift = (velocity[:, None] * times[:, None] + jerk * np.abs(times)[:, None]) * scale * 2 / side
    turned, grown = turn[:, None] * times, 1 + zoom[:, None] * times
    cosine, sine = grown * np.cos(turned), grown * np.sin(turned)
    rows = [np.stack([cosine, -sine, shift[..., 0]], -1), np.stack([sine, cosine, shift[..., 1]], -1)]
    return torch.from_numpy(np.stack(rows, 2).astype(np.float32))


def _moved(planes: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    grid = functional.affine_grid(matrix.to(planes.device), list(planes.shape), align_corners=False)
    return functional.grid_sample(planes, grid, mode="bicubic", padding_mode="border", align_corners=False)


def _covers(count: int, side: int, motion: Motion, draw: np.random.Generator) -> torch.Tensor:
    """(N, S, S) in 0..1: one inside of an ellipse with an edge a pixel wide, zero around."""
    there = draw.random(count) < motion.occluded * (1 - motion.still)
    centre = draw.uniform(0.1, 0.9, (2, count, 1, 1)) * side
    axes = draw.uniform(0.06, 0.35, (2, count, 1, 1)) * side
    angle = draw.uniform(0, np.pi, (count, 1, 1))
    row, col = np.arange(side)[:, None] - centre[0], np.arange(side)[None] - centre[1]
    along, across = col * np.cos(angle) + row * np.sin(angle), row * np.cos(angle) - col * np.sin(angle)
    outside = np.hypot(along / axes[0], across / axes[1]) - 1
    cover = np.clip(0.5 - outside * np.minimum(*axes), 0, 1) * there[:, None, None]
    return torch.from_numpy(cover.astype(np.float32))


def blurred(moved: torch.Tensor, scale: int, recording: Recording, draw: np.random.Generator) -> torch.Tensor:
    """A lens that isn't sharp: (N, frames, S, S), each sample by a Gaussian of its own, borders replicated."""
    count = len(moved)
    sigma = draw.uniform(0.1, max(0.1, recording.blur_sigma), count) * scale
    sigma[draw.random(count) < recording.clean] = 0.1
    radius = int(np.ceil(3 * recording.blur_sigma * scale))
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma[:, None]) ** 2)
    weights = torch.from_numpy((line / line.sum(1, keepdims=True)).astype(np.float32)).to(moved.device)
    planes = moved.transpose(0, 1)  # a group of the convolution for each sample
    for pads, shape in (((0, 0, radius, radius), (count, 1, -1, 1)), ((radius, radius, 0, 0), (count, 1, 1, -1))):
        padded = functional.pad(planes, pads, mode="replicate")
        planes = functional.conv2d(padded, weights.view(shape), groups=count)
    return planes.transpose(0, 1)


def recorded(small: Bytes, recording: Recording, draw: np.random.Generator) -> Bytes:
    """What a player shows of small frames, (N, frames, h, w) levels of luma, after noise and H.264."""
    noisy = draw.random(len(small)) >= recording.clean
    sigma = draw.uniform(0, recording.noise_sigma, len(small)) * noisy
    grain = draw.standard_normal(small.shape, np.float32) * sigma[:, None, None, None].astype(np.float32)
    return coded(np.clip(np.round(small + grain), 0, 255).astype(np.uint8), recording.crf, draw)


def coded(levels: Bytes, crf: tuple[int, int], draw: np.random.Generator) -> Bytes:
    """What H.264 leaves of frames, (N, frames, h, w) levels of luma, all at one rate factor drawn from `crf`.

    The frames around the window repeat its ends; where the blocks lie is drawn. Deterministic: one thread encodes.
    """
    count, frames, rows, cols = levels.shape
    top, left = draw.integers(0, _BLOCK, 2)
    factor = int(draw.integers(crf[0], crf[1] + 1))
    # Samples side by side, each on whole blocks.
    across = int(np.ceil(np.sqrt(count)))
    down = -(-count // across)
    high, wide = (-(-(length + _BLOCK - 1) // _BLOCK) * _BLOCK for length in (rows, cols))
    around = ((0, down * across - count), (0, 0), (top, high - rows - top), (left, wide - cols - left))
    padded = np.pad(levels, around, mode="edge")
    sheet = padded.reshape(down, across, frames, high, wide).transpose(2, 0, 3, 1, 4)
    sheets = sheet.reshape(frames, down * high, across * wide)
    shown = _coded(np.concatenate([sheets[:1]] * _BEFORE + [sheets] + [sheets[-1:]] * _AFTER), factor)
    shown = shown[_BEFORE : _BEFORE + frames]
    apart = shown.reshape(frames, down, high, across, wide).transpose(1, 3, 0, 2, 4)
    return np.ascontiguousarray(apart.reshape(-1, frames, high, wide)[:count, :, top : top + rows, left : left + cols])


def _coded(luma: Bytes, crf: int) -> Bytes:
    """(frames, h, w) full-range luma -> the same from H.264, whose luma is of limited range; h and w are even."""
    import av

    rows, cols = luma.shape[1:]
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = cols, rows, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.thread_count = 1
    encoder.options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "x264-params": "log-level=none"}
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    limited = np.round(16 + luma.astype(np.float32) * (219 / 255)).astype(np.uint8)
    grey = np.full((rows // 2, cols), 128, np.uint8)
    packets = []
    for number, plane in enumerate(limited):
        frame = av.VideoFrame.from_ndarray(np.concatenate([plane, grey]), format="yuv420p")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    shown = np.stack([frame.to_ndarray()[:rows] for frame in sorted(frames, key=lambda frame: frame.pts or 0)])
    full = (shown.astype(np.float32) - 16) * (255 / 219)
    return np.clip(np.round(full), 0, 255).astype(np.uint8)
