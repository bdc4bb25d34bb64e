"""The console script, which answers Ctrl-C from its first line on: importing the rest takes a tenth of a second."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

_INTERRUPTED = 130


def entry() -> NoReturn:
    """Run the command line and exit."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _stop)
    from overlay.cli.main import entry as run

    run()


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Nothing was begun, so that there is nothing to leave in order."""
    os.write(2, b"error: interrupted; nothing was left half-written\nhint: run the command again\n")
    os._exit(_INTERRUPTED)
