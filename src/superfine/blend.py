"""Two networks of one architecture -> one between them, by the mean of their weights.

Source: Wang et al. 2018 (ESRGAN), arXiv:1809.00219, network interpolation.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np

from superfine.errors import ModelError, UsageError
from superfine.models import Model
from superfine.protobuf import protobuf_spans

__all__ = ["blend"]

# Field numbers of onnx.proto.
_GRAPH, _INITIALIZER = 7, 5
_KIND, _NAME, _RAW = 2, 8, 9
_DTYPES: Final[dict[Any, np.dtype[np.floating]]] = {1: np.dtype("<f4"), 10: np.dtype("<f2")}


def blend(first: Model, second: Model, share: float) -> Model:
    """The network whose weights are (1 - share) * first + share * second; share 0 and 1 are these themselves.

    Raises UsageError where share is outside 0..1, ModelError where the two aren't one architecture stored alike.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"a share of {share:g} lies outside 0 to 1")
    if share in (0, 1):
        return second if share else first
    content, other = bytearray(first.content), bytearray(second.content)
    strangers = ModelError(
        f"{second.source}: isn't of the architecture of {first.source}, so nothing lies between them"
    )
    ours, theirs = list(_weights(first.content)), list(_weights(second.content))
    if [(name, kind, len(span)) for name, kind, span in ours] != [
        (name, kind, len(span)) for name, kind, span in theirs
    ]:
        raise strangers
    for (_, kind, span), (*_, across) in zip(ours, theirs, strict=True):
        mine, its = (
            np.frombuffer(given[place.start : place.stop], kind).astype(np.float32)
            for given, place in ((first.content, span), (second.content, across))
        )
        between = (mine + np.float32(share) * (its - mine)).astype(kind).tobytes()
        content[span.start : span.stop] = other[across.start : across.stop] = between
    if _graph(bytes(content)) != _graph(bytes(other)):  # whatever is no weight: operators, sizes
        raise strangers
    names = first.card.name, second.card.name
    card = replace(
        first.card,
        name=f"{names[0]}+{share:g}*{names[1]}",
        summary=f"{1 - share:.3g} parts of {names[0]} and {share:.3g} of {names[1]}",
        psnr={},
        protocol="",
    )
    return Model(card, bytes(content), f"{first.source} and {second.source}")


def _weights(content: bytes) -> Iterator[tuple[str, np.dtype[np.floating], range]]:
    """Name, kind and place of each stored array of floats."""
    graph = _graph_span(content)
    for number, value in protobuf_spans(content, graph.start, graph.stop):
        if number == _INITIALIZER and isinstance(value, range):
            parts = dict(protobuf_spans(content, value.start, value.stop))
            name, kind, raw = (parts.get(field) for field in (_NAME, _KIND, _RAW))
            if kind in _DTYPES and isinstance(name, range) and isinstance(raw, range):
                yield content[name.start : name.stop].decode(), _DTYPES[kind], raw


def _graph(content: bytes) -> bytes:
    span = _graph_span(content)
    return bytes(content[span.start : span.stop])


def _graph_span(content: bytes) -> range:
    spans = [value for number, value in protobuf_spans(content, 0, len(content)) if number == _GRAPH]
    match spans:
        case [range() as span]:
            return span
    raise ValueError("want one graph")
