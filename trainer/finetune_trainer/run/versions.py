"""Versions of what a run is made by, for manifests."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "finetune-operator",
    "torch",
    "transformers",
    "trl",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
)


def collect_versions() -> dict[str, str]:
    """Return the version of Python and of each library that the run's numbers hang on."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
