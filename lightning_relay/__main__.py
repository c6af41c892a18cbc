"""``python -m lightning_relay``."""

import sys

from lightning_relay.command_line import main

if __name__ == "__main__":
    sys.exit(main())
