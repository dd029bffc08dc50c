"""Between two networks: their weights' mean, computed again by onnx."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from superfine.blend import blend
from superfine.engine import open_engine
from superfine.errors import ModelError, UsageError
from superfine.models import Model, find_model

[FIRST] = find_model("photo-x4")


def mapped(model: Model, change) -> Model:
    """`model` with every float weight changed."""
    proto = onnx.load_from_string(model.content)
    for entry in proto.graph.initializer:
        array = numpy_helper.to_array(entry)
        if array.dtype.kind == "f":
            entry.CopyFrom(numpy_helper.from_array(change(array).astype(array.dtype), entry.name))
    return Model(replace(model.card, name="other-x4"), proto.SerializeToString(), "other-x4.onnx")


def weights(model: Model) -> dict[str, np.ndarray]:
    return {e.name: numpy_helper.to_array(e) for e in onnx.load_from_string(model.content).graph.initializer}


def test_weights_lie_between():
    second = mapped(FIRST, lambda array: array * 0.5 + 0.25)
    between = weights(blend(FIRST, second, 0.25))
    ours, theirs = weights(FIRST), weights(second)
    assert list(between) == list(ours)
    for name, array in between.items():
        assert array.dtype == ours[name].dtype
        if array.dtype.kind == "f":
            wanted = 0.75 * ours[name].astype(np.float64) + 0.25 * theirs[name].astype(np.float64)
            assert np.abs(array - wanted).max() <= np.spacing(np.abs(wanted).max().astype(array.dtype))
        else:
            assert (array == ours[name]).all()


def test_a_network_between_runs_and_is_another():
    second = mapped(FIRST, lambda array: array * 0.9)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    made = [open_engine(model, precision="fp32")(pixels) for model in (FIRST, blend(FIRST, second, 0.5), second)]
    assert (made[0] != made[1]).any()
    assert (made[2] != made[1]).any()
    assert len({model.sha256 for model in (FIRST, blend(FIRST, second, 0.5), blend(FIRST, second, 0.6), second)}) == 4
    assert blend(FIRST, second, 0.5).card.psnr == {}


def test_the_ends_are_the_networks_themselves():
    second = mapped(FIRST, lambda array: array * 0.9)
    assert blend(FIRST, second, 0) is FIRST
    assert blend(FIRST, second, 1) is second


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_outside_is_refused(share):
    with pytest.raises(UsageError, match="outside 0 to 1"):
        blend(FIRST, FIRST, share)


def test_another_architecture_is_refused():
    [other] = find_model("balanced-x4")
    with pytest.raises(ModelError, match=r"balanced-x4\.onnx: isn't of the architecture"):
        blend(FIRST, other, 0.5)


def test_equal_weights_in_another_graph_are_refused():
    proto = onnx.load_from_string(FIRST.content)
    node = next(node for node in proto.graph.node if node.op_type == "Relu")
    node.op_type = "Abs"
    with pytest.raises(ModelError, match="architecture"):
        blend(FIRST, Model(FIRST.card, proto.SerializeToString(), "abs.onnx"), 0.5)
