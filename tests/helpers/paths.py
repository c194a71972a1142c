"""Where the repository and the real images are."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
DATA = Path(os.environ.get("CONTRASTILL_DATA", ROOT.parent / "shared" / "data"))
"""Real images, which a user does not have: tests that need them skip."""
