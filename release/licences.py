"""``python -m release.licences``: what we ship has licences that let us. Asks nobody: reads the metadata of what is installed."""

import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any, Final

from license_expression import ExpressionError, get_spdx_licensing

from release.packages import EXTRAS, PackageMissing, list_packages

POLICY: Final = Path(__file__).with_name("licences.toml")
_LONGEST_NAME: Final = 60
"""Characters; a longer field `License` holds the licence's text, and the classifier names it."""
_SPDX: Final = get_spdx_licensing()


@dataclass(frozen=True)
class Review:
    """What somebody found who looked at packages whose metadata does not say enough."""

    packages: tuple[str, ...]
    licence: str
    parts: tuple[str, ...]
    because: str

    def covers(self, package: str) -> bool:
        """Say whether it is about this package."""
        return any(fnmatchcase(package, pattern) for pattern in self.packages)


@dataclass(frozen=True)
class Policy:
    """What licences are let through."""

    allowed: frozenset[str]
    words: Mapping[str, str]
    reviewed: tuple[Review, ...]

    @classmethod
    def read(cls, path: Path = POLICY) -> "Policy":
        """Read it from a file in TOML."""
        raw: dict[str, Any] = tomllib.loads(path.read_text())
        reviews = (
            Review(tuple(each["packages"]), each["licence"], tuple(each["parts"]), each["because"]) for each in raw.get("reviewed", ())
        )
        return cls(frozenset(raw["allowed"]), raw.get("words", {}), tuple(reviews))


def read_field(package: Distribution, name: str) -> str:
    """Return a field of a package's metadata, empty where it has none."""
    return next(iter(package.metadata.get_all(name) or ()), "").strip()


def read_licence(package: Distribution, words: Mapping[str, str]) -> str | None:
    """Return the licence that a package's metadata states, as an SPDX expression where it can be read as one; None if it states none."""
    if expression := read_field(package, "License-Expression"):
        return expression
    stated = read_field(package, "License")
    if stated and len(stated) <= _LONGEST_NAME and (stated in words or _is_known(stated)):
        return words.get(stated, stated)
    classified = [
        line.rpartition(" :: ")[2] for line in package.metadata.get_all("Classifier") or () if line.startswith("License :: OSI Approved ::")
    ]
    named = [words[name] for name in classified if name in words]
    if len(named) == len(classified) == 1:
        return named[0]
    return stated[:_LONGEST_NAME] or " / ".join(classified) or None


def is_allowed(expression: str, allowed: frozenset[str]) -> bool:
    """Say whether an SPDX expression can be met by licences of the list alone: all of an AND, one of an OR."""
    try:
        parsed = _SPDX.parse(expression, simple=False)
    except ExpressionError:
        return False
    return parsed is not None and _holds(parsed, allowed)


def check_part(part: str, packages: Mapping[str, Distribution], policy: Policy) -> Iterator[str]:
    """Yield what is wrong with each package of a part (`operator`, `trainer`, `cli`), and what to do about it."""
    for name, package in packages.items():
        review = next((each for each in policy.reviewed if each.covers(name)), None)
        if review is not None and part in review.parts:
            continue
        licence = read_licence(package, policy.words)
        if licence is not None and is_allowed(licence, policy.allowed):
            continue
        says = f"has the licence {licence!r}" if licence else "states no licence"
        yield (
            f"{name} {package.version} ({part}): {says}, not in release/licences.toml. Replace the package; or, if its licence lets us "
            f"ship it, add the licence to `allowed`, or what you found in its files to `reviewed`"
        )


def list_stale_reviews(names: frozenset[str], policy: Policy) -> Iterator[str]:
    """Yield reviews that are about nothing that is shipped."""
    for review in policy.reviewed:
        for pattern in review.packages:
            if not any(fnmatchcase(name, pattern) for name in names):
                yield f"release/licences.toml: `reviewed` names {pattern}, which is not shipped any more; remove it"


def _is_known(name: str) -> bool:
    return name in _SPDX.known_symbols


def _holds(node: Any, allowed: frozenset[str]) -> bool:  # noqa: ANN401  # a node of boolean.py, which has no types
    if isinstance(node, _SPDX.AND):
        return all(_holds(each, allowed) for each in node.args)
    if isinstance(node, _SPDX.OR):
        return any(_holds(each, allowed) for each in node.args)
    return str(node.render("{symbol.key}")) in allowed


def main() -> int:
    """Check all parts; exit 1 where a package may not be shipped."""
    policy = Policy.read()
    faults: list[str] = []
    shipped: set[str] = set()
    try:
        for part, extras in EXTRAS.items():
            packages = list_packages(extras)
            shipped |= set(packages)
            faults += check_part(part, packages, policy)
    except PackageMissing as error:
        faults.append(str(error))
    else:
        faults += list_stale_reviews(frozenset(shipped), policy)
    for fault in faults:
        sys.stderr.write(f"error: {fault}\n")
    if not faults:
        sys.stdout.write(f"{len(shipped)} packages, each with a licence that may be shipped\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
