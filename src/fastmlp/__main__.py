"""`python -m fastmlp` does what the `fastmlp` command does."""

import sys

from fastmlp._cli import main

if __name__ == "__main__":
    sys.exit(main())
