"""``python -m release.audit``: does a package of uv.lock have a known vulnerability? Asks osv.dev, or a mirror of it.

Exit codes: 0 none known; 1 some, named; 69 nobody could be asked, so nothing is known.
"""

import argparse
import os
import shutil
import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from typing import Final

from release.version import ROOT

_SECONDS: Final = 300
_VULNERABLE: Final = 1
"""uv's exit code where it found vulnerabilities; it has 2 for everything else."""


class Outcome(IntEnum):
    """Exit codes."""

    CLEAN = 0
    VULNERABLE = 1
    UNKNOWN = 69
    """`EX_UNAVAILABLE` of sysexits.h."""


def audit(service: str | None = None, root: Path = ROOT) -> Outcome:
    """Ask about every package of the lock file; uv's own words go to the terminal.

    :param service: address of a service that answers as osv.dev does; None is osv.dev itself.
    """
    uv = shutil.which("uv", path=f"{root / '.tools' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        sys.stderr.write("error: uv is not installed; run: make setup\n")
        return Outcome.UNKNOWN
    argv = [uv, "audit", "--project", str(root), "--frozen", "--preview-features", "audit-command"]
    argv += ["--service-url", service] if service else []
    try:
        code = subprocess.run(argv, check=False, timeout=_SECONDS).returncode
    except subprocess.TimeoutExpired:
        code = None
    if code == 0:
        return Outcome.CLEAN
    return Outcome.VULNERABLE if code == _VULNERABLE else Outcome.UNKNOWN


def main(arguments: list[str] | None = None) -> int:
    """Audit, and say in one line what came of it."""
    parser = argparse.ArgumentParser(prog="python -m release.audit", description=__doc__)
    parser.add_argument("--service", default=os.environ.get("OSV_URL"), help="a mirror of osv.dev (default: $OSV_URL, else osv.dev)")
    options = parser.parse_args(arguments)
    outcome = audit(options.service)
    said = {
        Outcome.CLEAN: "audited: no known vulnerability",
        Outcome.VULNERABLE: "error: upgrade the packages named above: uv lock --upgrade-package NAME",
        Outcome.UNKNOWN: (
            f"error: NOT AUDITED: {options.service or 'osv.dev'} could not be asked (see above), so nothing is known. "
            "Run it where that service can be reached, or name a mirror by OSV_URL"
        ),
    }
    (sys.stdout if outcome == Outcome.CLEAN else sys.stderr).write(said[outcome] + "\n")
    return int(outcome)


if __name__ == "__main__":
    sys.exit(main())
