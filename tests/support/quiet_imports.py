"""Importing libraries whose own modules warn, in a test run where every warning is an error."""

import importlib
import warnings


def import_quietly(*names: str) -> None:
    """Import ``names``; what they warn of while they are imported is theirs, not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            importlib.import_module(name)
