"""Screens of a terminal as one SVG that plays itself."""

import re
from xml.etree import ElementTree

from rich.text import Text

from release.film import render_film

SVG = "{http://www.w3.org/2000/svg}"
SCREENS = [[Text("$ submit"), Text.assemble("loss ", ("2.0 <high>", "bold red"))], [Text("$ submit"), Text("loss 1.0")]]


def read_screens(film: str) -> list[str]:
    return ["\n".join("".join(row.itertext()) for row in group) for group in ElementTree.fromstring(film).iter(f"{SVG}g")]  # noqa: S314  ours


def test_every_screen_is_there_in_order() -> None:
    first, second = read_screens(render_film(SCREENS, "submit", 80))
    assert "2.0 <high>" in first
    assert second.endswith("loss 1.0")


def test_a_screen_that_did_not_change_is_there_once() -> None:
    assert len(read_screens(render_film([SCREENS[0], SCREENS[0], SCREENS[1], SCREENS[1]], "submit", 80))) == 2


def test_screens_follow_each_other_and_who_wants_no_motion_sees_the_last() -> None:
    film = render_film(SCREENS, "submit", 80)
    assert re.findall(r'<g class="([^"]+)" style="animation-delay:([\d.]+)s"', film) == [("s", "0"), ("s l", "0.8")]
    assert "prefers-reduced-motion:reduce){.s{animation:none}.l{visibility:visible}}" in film


def test_a_film_fetches_nothing() -> None:
    assert set(re.findall(r"https?://[^\s\"')<]+", render_film(SCREENS, "submit", 80))) == {"http://www.w3.org/2000/svg"}
