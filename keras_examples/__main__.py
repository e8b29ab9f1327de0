"""`python -m keras_examples` is the command line."""

import os
import signal

signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))  # until a command takes over

from cli import main  # noqa: E402

main()
