"""Ctrl-C that falls where Python drops it."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from superfine import image
from superfine.image import open_picture
from superfine.interrupt import heeded, raise_if_asked


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Python's own handler, also where whoever runs the tests ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Dropped:
    """A thing whose finalizer is where Ctrl-C falls."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_control_c_raises_as_ever() -> None:
    with pytest.raises(KeyboardInterrupt), heeded():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_control_c_that_falls_in_a_finalizer_is_raised_when_asked_for_and_once() -> None:
    with heeded():
        Dropped()
        with pytest.raises(KeyboardInterrupt):
            raise_if_asked()
        raise_if_asked()


def test_only_the_main_thread_is_told() -> None:
    with heeded(), ThreadPoolExecutor(1) as pool:
        Dropped()
        pool.submit(raise_if_asked).result()
        with pytest.raises(KeyboardInterrupt):
            raise_if_asked()


def test_one_asked_for_before_is_forgotten() -> None:
    with pytest.raises(KeyboardInterrupt), heeded():
        signal.raise_signal(signal.SIGINT)
    with heeded():
        raise_if_asked()


def test_a_program_that_handles_it_itself_keeps_its_handler() -> None:
    told = threading.Event()
    before = signal.signal(signal.SIGINT, lambda number, frame: told.set())
    try:
        with heeded():
            signal.raise_signal(signal.SIGINT)
            raise_if_asked()
        assert told.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_sound_picture_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sound.png"
    Image.fromarray(np.zeros((9, 13, 3), np.uint8)).save(path)
    read = image._File.read

    def interrupted(file: image._File, count: int) -> bytes:
        signal.raise_signal(signal.SIGINT)
        return read(file, count)

    monkeypatch.setattr(image._File, "read", interrupted)
    with heeded(), pytest.raises(KeyboardInterrupt):
        open_picture(path)
