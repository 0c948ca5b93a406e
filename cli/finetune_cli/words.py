"""Numbers and times as people read them."""

from datetime import datetime, timedelta

from finetune_api.status import Phase

PHASE_STYLES = {
    Phase.PENDING: "yellow",
    Phase.QUEUED: "yellow",
    Phase.STARTING: "cyan",
    Phase.RUNNING: "blue",
    Phase.SUSPENDED: "magenta",
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "red",
}


def say_duration(seconds: float) -> str:
    """Return a duration in its two largest units: ``3h12m``, ``45s``."""
    whole = max(0, int(seconds))
    for unit, size, below, small in (("d", 86_400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size}{unit}" + (f"{rest}{below}" if rest else "")
    return f"{whole}s"


def say_age(moment: datetime | None, now: datetime) -> str:
    """Return how long ago ``moment`` was."""
    return "" if moment is None else say_duration((now - moment) / timedelta(seconds=1))


def say_bytes(count: float) -> str:
    """Return an amount of memory in binary units: ``17.2 GiB``."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def say_number(value: float | None, digits: int = 4) -> str:
    """Return a measured number with so many significant digits; nothing where there is none."""
    return "" if value is None else f"{value:.{digits}g}"


def say_count(value: float | None) -> str:
    """Return a count with separators; nothing where there is none."""
    return "" if value is None else f"{value:,.0f}"


def printable(text: str) -> str:
    """Keep what others wrote from steering the terminal."""
    return "".join(character if character.isprintable() or character == "\n" else ascii(character)[1:-1] for character in text)
