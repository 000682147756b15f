"""The program `flossing`: what runs before the library is imported and after a command ends.

Importing the library takes seconds, so Ctrl-C is handled from here, where nothing is imported yet.
"""

import os
import signal
import sys

# What a shell reports for a process that SIGINT ended: 128 + 2.
_INTERRUPTED = 130


def main() -> int:
    """Run the command line interface with the arguments of this process.

    Returns:
        The exit code; 130 after Ctrl-C, at any time.
    """
    # An exception within the imports of other packages may be caught, or shown, by them.
    signal.signal(signal.SIGINT, _end)
    from flossing.cli import main as run

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:
        # Between two steps of `run` itself, which handles those of the command.
        _end()
        return _INTERRUPTED
    finally:
        # While the interpreter shuts down there is nothing left to tidy up.
        signal.signal(signal.SIGINT, _end)


def _end(*_: object) -> None:
    sys.stderr.write("flossing: interrupted\n")
    sys.stderr.flush()
    os._exit(_INTERRUPTED)
