"""The quick start's scripts are run as scripts, so their folder is on the path, and they import one another from there."""

import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
sys.path.insert(0, str(EXAMPLES / "quickstart"))
