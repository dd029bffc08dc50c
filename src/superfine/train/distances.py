"""LPIPS and DISTS, where their packages and weights are installed: distances as networks see them.

Nothing is ever downloaded. Written for the interfaces of lpips 0.1.4 and DISTS_pytorch 0.1; run with these packages on
random weights and, in the tests, with stand-ins of them, never with the published weights.
"""

import io
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch

from superfine.errors import EngineError, ShapeError, UsageError

__all__ = ["DISTANCES", "Distance", "open_distance"]

Floats = npt.NDArray[np.float32]
Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Distance(Protocol):
    """How far apart two pictures look; 0 for equal ones."""

    name: str
    version: str
    """The package with its version, and the network in it."""

    def __call__(self, output: Floats, target: Floats) -> float:
        """output, target: (H, W, 3) float32 RGB in 0..1, of one shape. Raises ShapeError otherwise or if too small."""
        ...


class _NetworkDistance:
    def __init__(self, name: str, version: str, measure: Measure) -> None:
        self.name, self.version, self._measure = name, version, measure

    def __call__(self, output: Floats, target: Floats) -> float:
        if output.shape != target.shape or output.ndim != 3 or output.shape[2] != 3:
            raise ShapeError(f"want two equal (H, W, 3), got {output.shape} and {target.shape}")
        if output.dtype != np.float32 or target.dtype != np.float32:
            raise ShapeError(f"want float32 in 0..1, got {output.dtype} and {target.dtype}")
        pair = [torch.tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])) for pixels in (output, target)]
        try:
            with torch.inference_mode():
                value = float(self._measure(*pair))  # a batch of one: a single number
        except RuntimeError as error:
            raise ShapeError(f"{self.name} can't take pictures of {output.shape[:2]}: {error}") from error
        if not math.isfinite(value):
            raise EngineError(f"{self.name} ({self.version}) gave {value} for pictures of {output.shape[:2]}")
        return value


def open_distance(name: str) -> Distance:
    """One of `DISTANCES`, on the CPU.

    Raises UsageError for another name, EngineError where the package or its weights aren't here: the message says
    what to install, and which file to put where.
    """
    if name not in DISTANCES:
        raise UsageError(f"no distance {name!r}; there are {', '.join(DISTANCES)}")
    package, network, build = DISTANCES[name]
    try:
        with _without_downloads(name), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # torchvision's, of how these packages call it
            measure = build()
    except FileNotFoundError as error:
        raise EngineError(f"{name}: its weights aren't at {error.filename}; install {package} again") from error
    except (ImportError, RuntimeError) as error:
        cure = f"pip install {package} torchvision, the build that fits torch {torch.__version__}"
        raise EngineError(f"{name} can't be loaded ({error}): {cure}") from error
    return _NetworkDistance(name, f"{package} {_version(package)}, {network}", measure)


def _lpips() -> Measure:
    import lpips

    # Its own default and that of most papers; `normalize` takes 0..1.
    network = lpips.LPIPS(net="alex", version="0.1", verbose=False).eval()
    return lambda output, target: network(output, target, normalize=True)


def _dists() -> Measure:
    import DISTS_pytorch

    network: Measure = DISTS_pytorch.DISTS().eval()  # takes 0..1
    return network


#: Name -> package, the network in it, what builds it. Sources: Zhang et al. 2018, arXiv:1801.03924 (LPIPS); Ding et
#: al. 2020, arXiv:2004.07728 (DISTS).
DISTANCES: Final[dict[str, tuple[str, str, Callable[[], Measure]]]] = {
    "lpips": ("lpips", "alex v0.1", _lpips),
    "dists": ("DISTS_pytorch", "vgg16", _dists),
}


@contextmanager
def _without_downloads(name: str) -> Iterator[None]:
    """Both packages let torchvision fetch what isn't there; here that is an error, which names the file."""
    import torch.hub

    def refuse(url: Any, destination: object = None, *given: object, **named: object) -> None:  # noqa: ARG001 - torch's
        address = getattr(url, "full_url", url)
        place = f" and put it at {destination}" if destination else ""
        raise EngineError(f"{name}: weights are missing, and nothing is downloaded here: get {address}{place}")

    roads = {road: getattr(torch.hub, road) for road in ("download_url_to_file", "urlopen")}
    for road in roads:
        setattr(torch.hub, road, refuse)
    try:
        yield
    finally:
        for road, own in roads.items():
            setattr(torch.hub, road, own)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
