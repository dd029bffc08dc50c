"""Ctrl-C is never lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. Out of a
callback of libvips or a finalizer it can't travel: it's printed and dropped, and
libvips takes the callback for failed, so that a sound file would be called
damaged. There it's only noted; whoever calls libvips or works on many things asks.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["heeded", "raise_if_asked"]

# Modules of callbacks that C calls; whatever else it calls there is further down the stack.
_CALLBACKS = ("pyvips.gobject", "_weakrefset")

_asked = threading.Event()


@contextmanager
def heeded() -> Iterator[None]:
    """Within, Ctrl-C raises KeyboardInterrupt as ever, or where that can't be, in the next `raise_if_asked`.

    For the main thread of a program; nothing changes where the program ignores or handles SIGINT itself.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    _asked.clear()
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def raise_if_asked() -> None:
    """Raises the KeyboardInterrupt that could not be raised where it fell, once; only in the main thread."""
    if _asked.is_set() and threading.current_thread() is threading.main_thread():
        _asked.clear()
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _dead_end(frame):
        _asked.set()
    else:
        signal.default_int_handler(number, frame)


def _dead_end(frame: FrameType | None) -> bool:
    """Whether an exception raised in this frame would be dropped on its way up."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_globals.get("__name__") in _CALLBACKS:
            return True
        frame = frame.f_back
    return False
