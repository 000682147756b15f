"""The command line interface, as `python -m flossing`."""

import sys

from flossing.cli import main

if __name__ == "__main__":
    sys.exit(main())
