"""Ctrl-C at a moment of our choosing: between two steps, where a checkpoint is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def defer_interrupts() -> Iterator[Callable[[], None]]:
    """Hold back Ctrl-C (and SIGTERM, where it is handled) until the block asks for it.

    The block gets a function that raises the :class:`KeyboardInterrupt` that came in the meantime;
    one that the block did not ask for is raised at its end. Outside the main thread, where Python
    delivers no signals, nothing changes.
    """
    caught: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def ask() -> None:
        if caught:
            caught.clear()
            raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            # ignored or at the system's default: that is somebody's decision, leave it
            if callable(signal.getsignal(number)):
                before[number] = signal.signal(number, lambda got, frame: caught.append(got))
    try:
        yield ask
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    ask()
