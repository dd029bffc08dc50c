"""Segments and all other streams of a clip -> one file; nothing is encoded again.

Packets of pictures get the times of their frames. Sound, subtitles, data and attachments are copied packet by packet
where the container can hold them; what it can't hold is said. What was written is read once more before it counts.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from superfine.atomic import written_whole
from superfine.clip import Clip, Timeline, Track, is_still, opened, shown_time
from superfine.encoding import Container, container_of
from superfine.errors import OutputError
from superfine.segments import writing

__all__ = ["join", "kept_metadata"]

# What the muxers write themselves, and what is true of the source's packets alone.
_OWN_KEYS: Final = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "alpha_mode"})
_OWN_BEGINNINGS: Final = ("bps", "_statistics", "duration-", "number_of_")
# Formats of whose muxers one takes covers as streams.
_COVERS: Final = ("mp4",)
# The end of a subtitle in MP4, which its muxer writes by itself.
_NO_TEXT: Final = b"\0\0"
_MICROSECOND: Final = Fraction(1, 1_000_000)


def join(
    clip: Clip,
    segments: Sequence[Path],
    output: Path,
    timeline: Timeline,
    *,
    whole: Callable[[Path], None] = lambda part: None,
) -> tuple[str, ...]:
    """Write the file: the pictures of the segments, and the clip's other streams.

    timeline: of the segments' frames, all of them. Where it is a part of the clip's, other streams are cut to it, at
    their packets, and times begin at zero. whole: hears of the finished file, as `written_whole` says. Returns what
    couldn't be kept. Raises OutputError; nothing is replaced then.
    """
    import av

    container = container_of(output)
    notes: list[str] = []
    part_of = len(timeline) < len(clip.timeline)
    origin = timeline.at(0) if part_of else Fraction(0)
    until = timeline.at(0) + timeline.duration if part_of else None
    with writing(output), written_whole(output, whole) as part:
        with ExitStack() as stack:
            # Pictures have no other streams.
            source = stack.enter_context(opened(clip.path)) if clip.kind == "video" else None
            first = stack.enter_context(opened(segments[0]))
            # Matroska's names itself anew each time, by chance.
            options = {"movflags": "+faststart"} if container.format in ("mp4", "mov") else {"fflags": "+bitexact"}
            target = stack.enter_context(
                av.open(f"file:{part}", "w", format=container.format, container_options=options)
            )
            target.metadata.update(kept_metadata(clip.metadata))
            tracks = {track.index: track for track in clip.tracks}
            copies: dict[int, Any] = {}
            pictures = None
            if source is None:
                pictures = _joined_stream(target, first.streams.video[0], clip, timeline)
            for stream in source.streams if source is not None else ():
                if stream.index == clip.stream:
                    pictures = _joined_stream(target, first.streams.video[0], clip, timeline)
                elif _belongs_to_container(stream):
                    continue
                elif is_still(int(stream.disposition)) and container.format == "matroska":
                    _attach(target, clip.path, tracks[stream.index])
                elif _holds(container, stream):
                    copies[stream.index] = _copied_stream(target, stream, tracks[stream.index])
                else:
                    notes.append(f"{tracks[stream.index]} is left out: {container.name} can't hold it")
            _set_chapters(target, clip, origin, until)
            target.start_encoding()
            video = _video_packets(segments, timeline, origin, pictures)
            waiting = next(video, None)
            for packet, moment in _copied_packets(source, copies, origin, until):
                while waiting is not None and waiting.dts * timeline.unit <= moment:
                    target.mux(waiting)
                    waiting = next(video, None)
                target.mux(packet)
            while waiting is not None:
                target.mux(waiting)
                waiting = next(video, None)
            written = len(target.streams)
        notes += _checked(part, output, container, clip, timeline, origin, written)
    return tuple(notes)


def kept_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """What is worth keeping: not what the muxers write themselves, or what is true of the source's packets alone."""
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _OWN_KEYS
        and not key.lower().startswith(_OWN_BEGINNINGS)
        # What files say that don't know.
        and not (key == "creation_time" and value.startswith("1970-01-01"))
    }


def _belongs_to_container(stream: Any) -> bool:
    """The text of chapters is a stream of MP4's own; chapters are written anew."""
    from av.stream import Discard

    return bool(stream.discard == Discard.all)


def _holds(container: Container, stream: Any) -> bool:
    """Whether the container can hold a stream as it is: its header is written, and thrown away."""
    import av

    if is_still(int(stream.disposition)) and container.format not in _COVERS:
        return False
    # WebM's muxer takes attachments, and writes none.
    if stream.type == "attachment" and container.format != "matroska":
        return False
    try:
        with av.open(io.BytesIO(), "w", format=container.format) as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
            return True
    except (av.FFmpegError, ValueError):
        return False


def _joined_stream(target: Any, segment: Any, clip: Clip, timeline: Timeline) -> Any:
    stream = target.add_stream_from_template(segment, opaque=True)
    stream.time_base = timeline.unit
    stream.codec_context.framerate = timeline.rate.limit_denominator(100_000)
    if segment.codec_context.name == "hevc" and target.format.name in ("mp4", "mov"):
        stream.codec_context.codec_tag = "hvc1"  # what Apple's players look for
    if clip.display_matrix:
        stream.set_display_matrix(clip.display_matrix)
    stream.metadata.clear()
    stream.metadata.update(kept_metadata(clip.stream_metadata))
    if clip.alpha and segment.codec_context.name in ("vp8", "vp9"):
        stream.metadata["alpha_mode"] = "1"
    stream.disposition = clip.disposition
    return stream


def _copied_stream(target: Any, stream: Any, track: Track) -> Any:
    copy = target.add_stream_from_template(stream, opaque=True)
    copy.metadata.update(kept_metadata(track.metadata))
    copy.disposition = track.disposition
    return copy


def _attach(target: Any, path: Path, track: Track) -> None:
    """A cover in Matroska is an attachment; where there is a name already it was one."""
    with opened(path) as source:
        packets = source.demux(source.streams[track.index])
        data = next((bytes(packet) for packet in packets if packet.size), b"")
    ending = {"mjpeg": "jpg"}.get(track.codec, track.codec)
    name = track.metadata.get("filename", f"cover.{ending}")
    kind = track.metadata.get("mimetype", f"image/{'jpeg' if ending == 'jpg' else ending}")
    target.add_attachment(name, kind, data)


def _set_chapters(target: Any, clip: Clip, origin: Fraction, until: Fraction | None) -> None:
    chapters: list[dict[str, Any]] = []
    for chapter in clip.chapters:
        start, end = chapter.start, chapter.end
        if until is not None:
            start, end = max(start, origin), min(end, until)
        if start < end or until is None:
            chapters.append(
                {
                    "id": len(chapters) + 1,
                    "start": round((start - origin) / _MICROSECOND),
                    "end": round((end - origin) / _MICROSECOND),
                    "time_base": _MICROSECOND,
                    "metadata": chapter.metadata,
                }
            )
    target.set_chapters(chapters)


# ---- packets


def _video_packets(segments: Sequence[Path], timeline: Timeline, origin: Fraction, stream: Any) -> Iterator[Any]:
    """All packets in the order of decoding, with the times of their frames."""
    shift = round(origin / timeline.unit)
    times = [time - shift for time in timeline.times]
    order = _order(segments)
    if sorted(order) != list(range(len(times))):
        raise OutputError(
            f"{segments[0].parent}: its segments hold {len(order)} frames instead of {len(times)}; delete that folder"
            " and run the same again"
        )
    # Decoders need each frame this many frames before it's shown.
    delay = max(place - number for place, number in enumerate(order))
    step = max(1, (times[-1] - times[0]) // max(1, len(times) - 1))
    place = 0
    for segment in segments:
        for packet in _packets(segment):
            number = order[place]
            packet.stream = stream
            packet.time_base = timeline.unit
            packet.pts = times[number]
            packet.dts = times[place - delay] if place >= delay else times[0] - (delay - place) * step
            packet.duration = times[number + 1] - times[number] if number + 1 < len(times) else timeline.last
            yield packet
            place += 1


def _packets(segment: Path) -> Iterator[Any]:
    with opened(segment) as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.size:
                yield packet


def _order(segments: Sequence[Path]) -> list[int]:
    """The numbers of the frames in the order of their packets. Raises OutputError for segments that don't fit."""
    order: list[int] = []
    setup = None
    for segment in segments:
        begin = len(order)
        with opened(segment) as container:
            stream = container.streams.video[0]
            extradata = bytes(stream.codec_context.extradata or b"")
            if setup is not None and extradata != setup:
                raise OutputError(
                    f"{segment}: was encoded with other settings than the ones before it; delete its folder and run the"
                    " same again"
                )
            setup = extradata
            order += [begin + packet.pts for packet in container.demux(stream) if packet.size]
    return order


def _copied_packets(
    source: Any, copies: dict[int, Any], origin: Fraction, until: Fraction | None
) -> Iterator[tuple[Any, Fraction]]:
    """Packets of all other streams as they come, and when, in seconds of the output."""
    import av

    if not copies:
        return
    last: dict[int, int] = {}
    contexts = {index: source.streams[index].codec_context for index in copies}
    names = {index: context.name if context is not None else "" for index, context in contexts.items()}
    packets = source.demux([source.streams[index] for index in copies])
    # Where the file breaks off its sound does too; that was found when it was opened.
    with suppress(av.FFmpegError):
        for packet in packets:
            if not packet.size or (names[packet.stream_index] == "mov_text" and bytes(packet) == _NO_TEXT):
                continue
            index, unit = packet.stream_index, packet.time_base
            still = packet.stream.type == "video" and packet.dts is None
            dts = packet.dts if packet.dts is not None else packet.pts
            if dts is None:
                dts = last.get(index, -1) + 1
            if until is not None and not still:
                if not origin <= dts * unit < until:
                    continue
                shift = round(origin / unit)
                dts -= shift
                packet.pts = None if packet.pts is None else packet.pts - shift
            # Muxers refuse times that stand still.
            dts = max(dts, last[index] + 1) if index in last else dts
            last[index] = dts
            packet.dts = dts
            packet.pts = dts if packet.pts is None else max(packet.pts, dts)
            packet.stream = copies[index]
            yield packet, dts * unit


# ---- the proof


def _checked(
    part: Path, output: Path, container: Container, clip: Clip, timeline: Timeline, origin: Fraction, streams: int
) -> list[str]:
    """Read the file once more; how it differs. Raises OutputError where frames or streams are missing."""
    notes: list[str] = []
    with opened(part) as made:
        if len(made.streams) < streams:
            raise OutputError(f"{output}: came out with {len(made.streams)} streams instead of {streams}; report this")
        stream = next(stream for stream in made.streams.video if not is_still(int(stream.disposition)))
        shown = sorted(
            packet.pts * Fraction(packet.time_base)
            for packet in made.demux(stream)
            if packet.size and not packet.is_discard
        )
        wanted = [timeline.at(number) - origin for number in range(len(timeline))]
        if len(shown) != len(wanted):
            raise OutputError(f"{output}: came out with {len(shown)} frames instead of {len(wanted)}; report this")
        later = shown[0] - wanted[0]
        off = max(abs(one - later - other) for one, other in zip(shown, wanted, strict=True))
        if off > Fraction(1, 1000):
            raise OutputError(f"{output}: a frame came out {shown_time(off)} off its time; report this")
        if abs(later) >= Fraction(1, 2000):
            notes.append(f"everything begins {shown_time(later)} later: {container.name} has no times before zero")
        if off:
            notes.append(f"times are rounded to milliseconds, as {container.name} holds them")
        kept = {key.lower(): value for key, value in made.metadata.items()}
        if lost := [key for key in kept_metadata(clip.metadata) if key.lower() not in kept]:
            notes.append(f"metadata that {container.name} doesn't hold: {', '.join(lost)}")
        if clip.display_matrix and not _first_matrix(made):
            notes.append(f"{container.name} doesn't hold the rotation of {clip.rotation} degrees")
    return notes


def _first_matrix(made: Any) -> bool:
    """Whether the first picture that can be decoded says how it's turned."""
    stream = next(stream for stream in made.streams.video if not is_still(int(stream.disposition)))
    made.seek(0)
    for frame in made.decode(stream):
        return any(data.type.name == "DISPLAYMATRIX" for data in frame.side_data)
    return False
