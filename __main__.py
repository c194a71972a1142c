"""``python -m contrastill`` and ``accelerate launch -m contrastill``."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
