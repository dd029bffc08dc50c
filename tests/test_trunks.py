"""Published trunks: accepted by their hash alone, read without torch.load, computed as a second network says."""

import hashlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from superfine.errors import ShapeError, TrainingError
from superfine.train.nets import NETS
from superfine.train.nets.residual_unet import ResidualUNet
from superfine.train.trunks import TRUNKS, TrunkFile, VGGFeatures, find_trunk, lend_encoder

# torchvision's layouts, M for a pooling: configurations D and E of the paper.
VGG = {
    "vgg16": [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"],
    "vgg19": [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"],
}


def vgg(name):
    """The convolutional part as torchvision numbers it, with weights that keep contrasts as they are."""
    torch.manual_seed(len(name))
    layers, inputs = [], 3
    for width in VGG[name]:
        if width == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            convolution = nn.Conv2d(inputs, width, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight)
            nn.init.normal_(convolution.bias, std=0.1)
            layers += [convolution, nn.ReLU()]
            inputs = width
    return nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """As in torchvision, written from the paper."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet34(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        inputs = width
        for number, blocks in enumerate([3, 4, 6, 3]):
            outputs, stride = width << number, 1 if number == 0 else 2
            stage = [BasicBlock(inputs, outputs, stride), *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))]
            setattr(self, f"layer{number + 1}", nn.Sequential(*stage))
            inputs = outputs
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x):
        features = [functional.relu(self.bn1(self.conv1(x)))]
        y = functional.max_pool2d(features[0], 3, 2, 1)
        for number in range(1, 5):
            y = getattr(self, f"layer{number}")(y)
            features.append(y)
        return features


def resnet34(width=8):
    torch.manual_seed(0)
    net = ResNet34(width).eval()
    with torch.no_grad():
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                for value in (norm.weight, norm.running_var):
                    value.uniform_(0.5, 1.5)
                for value in (norm.bias, norm.running_mean):
                    value.normal_(0, 0.1)
    return net


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of torch hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def publish(monkeypatch, name, path, tensors, *, zipped=True):
    """Write a stand-in and let it count as the published file of `name`."""
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    monkeypatch.setitem(TRUNKS, name, {path.name: hashlib.sha256(path.read_bytes()).hexdigest()})
    return path


def a_trunk(name, tensors):
    """A trunk without a file."""

    class Given(TrunkFile):
        def tensors(self):
            return tensors

    return Given(name, "given.pth", "0" * 64)


def of_features(net):
    return {f"features.{name}": value for name, value in net.state_dict().items()}


def of_encoder(net):
    return {name: value for name, value in net.state_dict().items() if not name.startswith("fc.")}


# ---- which file counts


def test_the_names_of_published_files_begin_their_hashes():
    """torchvision's rule: the first eight digits of the sha256 stand in the name."""
    for name, files in TRUNKS.items():
        for file, digest in files.items():
            assert file == f"{name}-{digest[:8]}.pth"
            assert len(bytes.fromhex(digest)) == 32


def test_an_empty_cache_has_no_trunk(cache):
    assert [find_trunk(name) for name in TRUNKS] == [None] * 3


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_trunk_from_the_cache_and_from_a_path(cache, monkeypatch, tmp_path, zipped):
    net = resnet34()
    file = publish(monkeypatch, "resnet34", cache / "resnet34-0.pth", net.state_dict(), zipped=zipped)
    found = find_trunk("resnet34")
    assert (found.name, found.path) == ("resnet34", file)
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    tensors = found.tensors()
    wanted = of_encoder(net)
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    elsewhere = file.rename(tmp_path / "mine.pth")
    assert find_trunk("resnet34") is None
    assert find_trunk("resnet34", elsewhere).sha256 == found.sha256


def test_half_floats_are_read_as_floats(cache, monkeypatch):
    weights = {"conv1.weight": torch.rand(4, 3, 7, 7).half()}
    file = publish(monkeypatch, "resnet34", cache / "resnet34-0.pth", weights)
    tensors = find_trunk("resnet34", file).tensors()
    assert tensors["conv1.weight"].dtype == torch.float32
    assert torch.equal(tensors["conv1.weight"], weights["conv1.weight"].float())


@pytest.mark.parametrize("name", TRUNKS)
def test_random_weights_under_a_published_name_are_refused(cache, name):
    file = cache / next(iter(TRUNKS[name]))
    torch.save({"features.0.weight": torch.rand(64, 3, 3, 3)}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    words = rf"{file}: its sha256 begins with {digest[:8]}, so it is not a published file of {name}; fetch https://\S+"
    for path in (None, file):
        with pytest.raises(TrainingError, match=words + file.name):
            find_trunk(name, path)


def test_another_trunks_file_is_refused(cache, monkeypatch):
    file = publish(monkeypatch, "vgg19", cache / "vgg19-0.pth", {"x": torch.zeros(1)})
    assert find_trunk("vgg19", file) is not None
    with pytest.raises(TrainingError, match=r"vgg19-0\.pth: .* not a published file of vgg16"):
        find_trunk("vgg16", file)


def test_a_file_that_can_not_be_read(cache, tmp_path):
    with pytest.raises(TrainingError, match=r"gone\.pth: can't be read: No such file .*; name the file of a published"):
        find_trunk("vgg16", tmp_path / "gone.pth")
    with pytest.raises(TrainingError, match=r"can't be read: Is a directory"):
        find_trunk("vgg16", tmp_path)
    (cache / "vgg16-397923af.pth").symlink_to(tmp_path / "gone.pth")
    with pytest.raises(TrainingError, match=r"vgg16-397923af\.pth: can't be read: No such file"):
        find_trunk("vgg16")


def test_an_unknown_trunk():
    with pytest.raises(TrainingError, match="no trunk 'vgg11'; there are vgg16, vgg19, resnet34"):
        find_trunk("vgg11")


def test_a_file_that_changes_after_it_was_found(cache, monkeypatch):
    file = publish(monkeypatch, "resnet34", cache / "resnet34-0.pth", {"x": torch.zeros(1)})
    found = find_trunk("resnet34")
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(TrainingError, match="has changed while it was read"):
        found.tensors()
    file.unlink()
    with pytest.raises(TrainingError, match="can't be read: No such file"):
        found.tensors()


class Caller:
    def __reduce__(self):
        return print, ("called",)


def test_a_file_that_calls_is_refused_even_if_its_hash_is_known(cache, monkeypatch, capsys):
    file = publish(monkeypatch, "resnet34", cache / "resnet34-0.pth", {"x": Caller()})
    with pytest.raises(TrainingError, match=r"resnet34-0\.pth: holds a pickle that calls builtins\.print: refused"):
        find_trunk("resnet34", file).tensors()
    assert capsys.readouterr().out == ""


# ---- features


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("vgg16", {"relu3_3": 15, "relu2_2": 8, "relu4_3": 22, "conv1_1": 0}),
        ("vgg19", {"conv5_4": 34, "relu5_4": 35, "conv2_2": 7, "conv1_2": 2}),
    ],
)
def test_features_are_those_of_the_sequence(name, asked):
    """asked: each layer's place in torchvision's sequence."""
    net, pixels = vgg(name), torch.rand(2, 3, 33, 50)
    features = VGGFeatures(a_trunk(name, of_features(net)), tuple(asked))
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    y, wanted = (pixels - mean) / deviation, {}
    with torch.no_grad():
        for place, layer in enumerate(net):
            y = layer(y)
            wanted[place] = y
    made = features(pixels)
    assert isinstance(made, list)
    for tensor, place in zip(made, asked.values(), strict=True):
        torch.testing.assert_close(tensor, wanted[place], rtol=1e-4, atol=1e-4)
    if name == "vgg19":
        assert made[0].min() < 0, "before the ReLU"
        assert torch.equal(made[1], made[0].clamp_min(0)), "after it"


def test_features_from_a_file(cache, monkeypatch):
    """The whole way, with a classifier that is left alone."""
    net = vgg("vgg16")[:3]
    tensors = of_features(net) | {"classifier.0.weight": torch.rand(8, 8)}
    publish(monkeypatch, "vgg16", cache / "vgg16-0.pth", tensors)
    found, pixels = find_trunk("vgg16"), torch.rand(1, 3, 8, 8)
    assert "classifier.0.weight" not in found.tensors()
    (made,) = VGGFeatures(found, ("conv1_2",))(pixels)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normal = ((pixels.numpy().transpose(0, 2, 3, 1) - mean) / deviation).transpose(0, 3, 1, 2)
    with torch.no_grad():
        wanted = net(torch.from_numpy(normal).float())
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)


def test_features_are_frozen_and_let_gradients_through():
    features = VGGFeatures(a_trunk("vgg16", of_features(vgg("vgg16"))), ("relu2_2",))
    assert not features.training
    assert not any(weight.requires_grad for weight in features.parameters())
    pixels = torch.rand(1, 3, 16, 16, requires_grad=True)
    features(pixels)[0].square().mean().backward()
    assert pixels.grad.abs().min() > 0


def test_nothing_is_computed_past_the_deepest_layer():
    features = VGGFeatures(a_trunk("vgg16", of_features(vgg("vgg16"))), ("relu2_2", "conv1_1"))
    assert len(features.convolutions) == 4
    assert [tuple(made.shape) for made in features(torch.rand(1, 3, 2, 3))] == [(1, 128, 1, 1), (1, 64, 2, 3)]


@pytest.mark.parametrize("layer", ["conv3_4", "relu6_1", "conv1_3", "pool1", "conv1_2_relu", "relurelu1_1", ""])
def test_an_unknown_layer(layer):
    trunk = a_trunk("vgg16", {})
    with pytest.raises(TrainingError, match=rf"vgg16 has no layer {layer}; there are conv1_1, relu1_1, .*, relu5_3$"):
        VGGFeatures(trunk, ("conv1_1", layer))


def test_no_layer_at_all():
    with pytest.raises(TrainingError, match="vgg19 was asked for no layer; there are .*, conv5_4, relu5_4$"):
        VGGFeatures(a_trunk("vgg19", {}), ())


def test_a_trunk_without_features():
    with pytest.raises(TrainingError, match="resnet34 gives no features; there are vgg16, vgg19"):
        VGGFeatures(a_trunk("resnet34", {}), ("conv1_1",))


@pytest.mark.parametrize("shape", [(1, 3, 3, 8), (1, 1, 8, 8), (3, 8, 8)])
def test_pictures_that_a_level_can_not_take(shape):
    features = VGGFeatures(a_trunk("vgg16", of_features(vgg("vgg16"))), ("relu3_1",))
    with pytest.raises(ShapeError, match=r"want \(N, 3, h, w\) of 4 px a side or more, got \(.*\); use larger patches"):
        features(torch.rand(shape))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda given: given.pop("features.2.bias"), r"has nothing under features\.2\.bias where .* shape \(64,\)"),
        (
            lambda given: given.update({"features.2.weight": torch.zeros(64, 32, 3, 3)}),
            r"has shape \(64, 32, 3, 3\) under features\.2\.weight where vgg16 has shape \(64, 64, 3, 3\)",
        ),
    ],
    ids=["missing", "reshaped"],
)
def test_a_file_without_the_right_layers(change, words):
    given = of_features(vgg("vgg16"))
    change(given)
    with pytest.raises(TrainingError, match=rf"given\.pth: {words}"):
        VGGFeatures(a_trunk("vgg16", given), ("conv1_2",))


# ---- the encoder's initialisation


def test_a_lent_encoder_is_resnet34():
    """Each level's features against the second network, on the picture as ImageNet's are normalised."""
    other, net = resnet34(), ResidualUNet(4, width=8).eval()
    lend_encoder(net, a_trunk("resnet34", of_encoder(other)))
    pixels = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        made, wanted = net.encoder(pixels), other(pixels)
    assert [tuple(each.shape[2:]) for each in made] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    for one, two in zip(made, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
        assert one.std() > 0.01


def test_the_encoder_sees_the_picture_normalised():
    """A picture of ImageNet's mean colour is zero to the encoder; one deviation above it is one."""
    net = ResidualUNet(4, width=8).eval()
    seen = []
    net.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    with torch.no_grad():
        for deviations in (0, 1):
            net((mean + deviations * deviation).expand(1, 3, 8, 8))
    torch.testing.assert_close(seen[0], torch.zeros(1, 3, 32, 32), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[1], torch.ones(1, 3, 32, 32), atol=1e-5, rtol=0)


def test_every_weight_and_norm_of_the_encoder_is_lent():
    net = ResidualUNet(4, width=8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    lend_encoder(net, a_trunk("resnet34", of_encoder(resnet34())))
    same = {name for name, value in net.state_dict().items() if torch.equal(value, before[name])}
    assert not {name for name in same if name.startswith("encoder.") and not name.endswith("num_batches_tracked")}
    assert all(name in same for name in before if not name.startswith("encoder."))


def test_files_of_old_have_no_counters():
    given = {name: value for name, value in of_encoder(resnet34()).items() if "num_batches" not in name}
    net = ResidualUNet(4, width=8)
    lend_encoder(net, a_trunk("resnet34", given))
    assert torch.equal(net.encoder.conv1.conv.weight, given["conv1.weight"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda given: given.pop("layer2.0.downsample.1.running_var"), r"nothing under layer2\.0\.downsample\.1\.runn"),
        (lambda given: given.update({"bn1.weight": torch.ones(9)}), r"shape \(9,\) under bn1\.weight where resnet34"),
        (
            lambda given: given.update({"layer5.0.conv1.weight": torch.ones(1)}),
            r"layer5\.0\.conv1\.weight, which resnet34",
        ),
    ],
    ids=["missing", "reshaped", "more"],
)
def test_an_encoder_that_does_not_fit_changes_nothing(change, words):
    net, given = ResidualUNet(4, width=8), of_encoder(resnet34())
    change(given)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(TrainingError, match=rf"given\.pth: has {words}"):
        lend_encoder(net, a_trunk("resnet34", given))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_net_without_an_encoder():
    with pytest.raises(TrainingError, match="UNet x4 has no encoder that could start from resnet34; leave out encoder"):
        lend_encoder(NETS["unet"].build(4), a_trunk("resnet34", {}))
    with pytest.raises(TrainingError, match="ResidualUNet x4 has no encoder that could start from vgg16"):
        lend_encoder(ResidualUNet(4, width=8), a_trunk("vgg16", {}))
