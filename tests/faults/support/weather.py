"""Random faults for as long as is wanted: a spell of one kind, a pause, a spell of another, all drawn from a seed."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tests.faults.support.faults import Answer, Cut, Delay, DropEvent, DropReply, DropRequest, ErrorEvent, HoldBack, Rule
from tests.faults.support.proxy import FaultProxy

SPELL_SECONDS: Final = (5.0, 20.0)
PAUSE_SECONDS: Final = (5.0, 15.0)
ABSENCES: Final = ("no API server", "watches silent", "watches cut")
"""Spells that no rule makes."""


def build_rules(name: str) -> list[Rule]:
    """Return the rules of the spell ``name``."""
    write = "write"
    return {
        "answers 429": [Rule(Answer(429, retry_after=1), probability=0.3)],
        "answers 500": [Rule(Answer(500), probability=0.3)],
        "answers 503": [Rule(Answer(503), probability=0.3)],
        "answers 504": [Rule(Answer(504), probability=0.3)],
        "writes answered 409": [Rule(Answer(409), write, probability=0.3)],
        "requests lost": [Rule(DropRequest(), probability=0.3)],
        "replies lost": [Rule(DropReply(), write, probability=0.3)],
        "calls slow": [Rule(Delay(0.1, 2.0), probability=0.5)],
        "view 5 s stale": [Rule(HoldBack(5.0))],
        "watch events dropped": [Rule(DropEvent(), probability=0.1)],
        "streams end in mid-line": [Rule(Cut(), probability=0.1)],
        "410 in streams": [Rule(ErrorEvent(410), probability=0.1)],
    }[name]


SPELLS: Final = (
    "answers 429",
    "answers 500",
    "answers 503",
    "answers 504",
    "writes answered 409",
    "requests lost",
    "replies lost",
    "calls slow",
    "view 5 s stale",
    "watch events dropped",
    "streams end in mid-line",
    "410 in streams",
    *ABSENCES,
)


@dataclass(slots=True)
class Weather:
    """What befalls one proxy's calls and watches."""

    proxy: FaultProxy
    seed: int
    left_out: tuple[str, ...] = ()
    """Spells that never come."""
    spell_seconds: tuple[float, float] = SPELL_SECONDS
    pause_seconds: tuple[float, float] = PAUSE_SECONDS
    spells: Counter[str] = field(default_factory=Counter)
    """How many there were of each kind."""
    hits: Counter[str] = field(default_factory=Counter)
    """How many calls and events each kind befell."""

    async def rage(self, seconds: float) -> None:
        """Send spell after spell for so long; each kind comes once before any comes again. It ends fair."""
        kinds = [name for name in SPELLS if name not in self.left_out]
        chance = random.Random(self.seed)  # noqa: S311  # chooses faults, guards nothing
        try:
            async with asyncio.timeout(seconds):
                while True:
                    for name in chance.sample(kinds, len(kinds)):
                        await self._send(name, chance.uniform(*self.spell_seconds))
                        await asyncio.sleep(chance.uniform(*self.pause_seconds))
        except TimeoutError:
            pass
        finally:
            self.proxy.heal()

    async def _send(self, name: str, seconds: float) -> None:
        self.spells[name] += 1
        rules = [] if name in ABSENCES else [self.proxy.add(rule) for rule in build_rules(name)]
        try:
            match name:
                case "no API server":
                    self.proxy.vanish()
                case "watches silent":
                    self.hits[name] += self.proxy.silence_watches()
                case "watches cut":
                    self.proxy.cut_watches()
            await asyncio.sleep(seconds)
        finally:
            self.proxy.heal()
            self.hits[name] += sum(len(rule.hits) for rule in rules)
            for rule in rules:
                self.proxy.rules.remove(rule)
            self.proxy.forget()
