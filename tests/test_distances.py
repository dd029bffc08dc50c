"""The adapters of LPIPS and DISTS, on stand-ins with the packages' interfaces: nothing is fetched, all is passed on."""

import sys
import types
import warnings

import numpy as np
import pytest
import torch

from superfine.errors import EngineError, ShapeError, UsageError
from superfine.train.distances import DISTANCES, open_distance

DRAW = np.random.default_rng(0)
OUTPUT, TARGET = DRAW.random((2, 17, 23, 3), dtype=np.float32)
each = pytest.mark.parametrize("name", DISTANCES)


class LPIPS(torch.nn.Module):
    """lpips.LPIPS of 0.1.4: takes -1..1, or 0..1 with `normalize`; gives (N, 1, 1, 1)."""

    def __init__(self, pretrained=True, net="alex", version="0.1", lpips=True, spatial=False, verbose=True):
        super().__init__()
        assert (pretrained, net, version, lpips, spatial) == (True, "alex", "0.1", True, False)
        if verbose:
            print("Setting up [LPIPS] perceptual loss")  # noqa: T201 - as it does

    def forward(self, in0, in1, retPerLayer=False, normalize=False):  # noqa: N803 - its name
        assert not self.training
        if normalize:
            in0, in1 = 2 * in0 - 1, 2 * in1 - 1
        if min(in0.shape[2:]) < 11:
            raise RuntimeError("Output size is too small")
        return (in0 - in1).square().mean((1, 2, 3), keepdim=True)


class DISTS(torch.nn.Module):
    """DISTS_pytorch.DISTS of 0.1: takes 0..1, gives a number without axes for a batch of one."""

    def __init__(self, load_weights=True):
        super().__init__()
        assert load_weights

    def forward(self, x, y, require_grad=False, batch_average=False):
        assert not self.training
        if min(x.shape[2:]) < 11:
            raise RuntimeError("Output size is too small")
        return (x - y).abs().mean((1, 2, 3)).squeeze()


KINDS = {"lpips": ("lpips", LPIPS), "dists": ("DISTS_pytorch", DISTS)}


def install(monkeypatch, name, kind=None):
    module, stand_in = KINDS[name]
    package = types.ModuleType(module)
    setattr(package, stand_in.__name__, kind or stand_in)
    monkeypatch.setitem(sys.modules, module, package)


def test_lpips_gets_the_range_it_wants(monkeypatch, capsys):
    install(monkeypatch, "lpips")
    distance = open_distance("lpips")
    wanted = np.mean(np.square(2 * (OUTPUT.astype(np.float64) - TARGET)))
    assert distance(OUTPUT, TARGET) == pytest.approx(wanted, rel=1e-5)
    assert distance(OUTPUT, OUTPUT) == 0
    assert distance.name == "lpips"
    assert distance.version.startswith("lpips ")
    assert distance.version.endswith(", alex v0.1")
    assert capsys.readouterr().out == ""


def test_dists_gets_the_range_it_wants(monkeypatch):
    install(monkeypatch, "dists")
    distance = open_distance("dists")
    assert distance(OUTPUT, TARGET) == pytest.approx(np.mean(np.abs(OUTPUT.astype(np.float64) - TARGET)), rel=1e-5)
    assert distance(OUTPUT, OUTPUT) == 0
    assert distance.name == "dists"
    assert distance.version.startswith("DISTS_pytorch ")
    assert distance.version.endswith(", vgg16")


@each
def test_rows_and_columns_and_colours_stay_apart(monkeypatch, name):
    seen = []

    class Watch(KINDS[name][1]):
        def forward(self, x, y, **options):
            seen.append((x.numpy().copy(), y.numpy().copy()))
            return super().forward(x, y, **options)

    Watch.__name__ = KINDS[name][1].__name__
    install(monkeypatch, name, Watch)
    given = OUTPUT[:, ::-1]  # strides that torch doesn't take
    given.flags.writeable = False
    open_distance(name)(given, TARGET)
    np.testing.assert_array_equal(seen[0][0][0], np.moveaxis(given, 2, 0))
    np.testing.assert_array_equal(seen[0][1][0], np.moveaxis(TARGET, 2, 0))


@each
@pytest.mark.parametrize(
    ("output", "target"),
    [
        (OUTPUT, TARGET[1:]),
        (OUTPUT[..., :1], TARGET[..., :1]),
        (OUTPUT[..., 0], TARGET[..., 0]),
        (OUTPUT.astype(np.float64), TARGET),
        (np.zeros((17, 23, 3), np.uint8), TARGET),
    ],
)
def test_other_arrays_are_refused(monkeypatch, name, output, target):
    install(monkeypatch, name)
    with pytest.raises(ShapeError, match="want "):
        open_distance(name)(output, target)


@each
def test_pictures_too_small_for_the_network_are_named(monkeypatch, name):
    install(monkeypatch, name)
    with pytest.raises(ShapeError, match=rf"{name} can't take pictures of \(5, 23\): Output size is too small"):
        open_distance(name)(OUTPUT[:5], TARGET[:5])


@each
def test_nan_is_an_error(monkeypatch, name):
    install(monkeypatch, name)
    with pytest.raises(EngineError, match=r"gave nan for pictures of \(17, 23\)"):
        open_distance(name)(np.full_like(OUTPUT, np.nan), TARGET)


# ---- what isn't here


@each
def test_a_missing_package_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, KINDS[name][0], None)
    with pytest.raises(EngineError, match=f"{name} can't be loaded .*: pip install {KINDS[name][0]} torchvision"):
        open_distance(name)


@each
def test_a_torchvision_that_does_not_fit_is_named(monkeypatch, name):
    def broken(*given, **named):
        raise RuntimeError("operator torchvision::nms does not exist")

    broken.__name__ = KINDS[name][1].__name__
    package = types.ModuleType(KINDS[name][0])
    setattr(package, broken.__name__, broken)
    monkeypatch.setitem(sys.modules, KINDS[name][0], package)
    with pytest.raises(EngineError, match="nms does not exist.*the build that fits torch"):
        open_distance(name)


def fetching(fetch, **attributes):
    class Fetching(torch.nn.Module):
        def __init__(self, *given, **named):
            super().__init__()
            warnings.warn("'pretrained' is deprecated", UserWarning, stacklevel=1)
            fetch()

    return Fetching


@each
@pytest.mark.parametrize("road", ["hub", "model_zoo", "to a file"])
def test_missing_weights_are_named_and_not_fetched(monkeypatch, tmp_path, capsys, name, road):
    """By torch's own functions, as torchvision calls them; `unplugged` would see an attempt."""
    import torch.utils.model_zoo

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    address = "https://example.com/models/alexnet-owt-7be5be79.pth"
    place = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    taken = torch.hub.download_url_to_file  # as a package holds it that took it by name
    roads = {
        "hub": lambda: torch.hub.load_state_dict_from_url(address, check_hash=True),
        "model_zoo": lambda: torch.utils.model_zoo.load_url(address),
        "to a file": lambda: taken(address, str(tmp_path / "file")),
    }
    kept = {road: getattr(torch.hub, road) for road in ("download_url_to_file", "urlopen")}
    kind = fetching(roads[road])
    kind.__name__ = KINDS[name][1].__name__
    package = types.ModuleType(KINDS[name][0])
    setattr(package, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, KINDS[name][0], package)
    with pytest.raises(EngineError, match=f"{name}: weights are missing, .*: get {address}") as caught:
        open_distance(name)
    assert str(caught.value).endswith(f" and put it at {place}") == (road != "to a file")
    assert list(tmp_path.rglob("*.pth")) == []
    assert capsys.readouterr().out == ""
    assert kept == {road: getattr(torch.hub, road) for road in kept}


@each
def test_weights_that_are_here_are_loaded(monkeypatch, tmp_path, name):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / "some.pth"
    place.parent.mkdir(parents=True)
    torch.save({"weight": torch.ones(2)}, place)
    loaded = []
    install(
        monkeypatch,
        name,
        types.new_class(
            KINDS[name][1].__name__,
            (fetching(lambda: loaded.append(torch.hub.load_state_dict_from_url("https://example.com/some.pth"))),),
        ),
    )
    open_distance(name)
    assert loaded[0]["weight"].tolist() == [1, 1]


def test_weights_of_the_package_that_are_gone_are_named(monkeypatch, tmp_path):
    """DISTS keeps its own weights in the environment's folder, where an installer may leave them out."""
    kind = fetching(lambda: torch.load(tmp_path / "weights.pt"))
    kind.__name__ = "DISTS"
    install(monkeypatch, "dists", kind)
    with pytest.raises(EngineError, match=r"dists: its weights aren't at .*weights\.pt; install DISTS_pytorch again"):
        open_distance("dists")


def test_an_unknown_distance_is_refused():
    with pytest.raises(UsageError, match="no distance 'ssim'; there are lpips, dists"):
        open_distance("ssim")
