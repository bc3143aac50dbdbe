"""The process that ``fastmlp bench`` measures in: ``python -m fastmlp._bench BACKEND quick``, either may be empty."""

import sys

from fastmlp._bench._command import run

if __name__ == "__main__":
    backend, quick = sys.argv[1:]
    try:
        sys.exit(run(backend or None, bool(quick)))
    except KeyboardInterrupt:
        sys.exit(130)
