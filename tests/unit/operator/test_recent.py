"""What was found out of late is not found out again, and only so much is kept."""

from finetune_operator.recent import Recent


def test_it_is_computed_once_for_each_version() -> None:
    recent: Recent[str, str] = Recent(2)
    answers = iter(["one", "two"])
    got = [recent.get("run", version, lambda: next(answers)) for version in (1, 1, 2, 2)]
    assert got == ["one", "one", "two", "two"]


def test_nothing_is_a_result_too() -> None:
    recent: Recent[str, str | None] = Recent(2)
    answers = iter([None, "asked twice"])
    assert [recent.get("run", 1, lambda: next(answers)) for _ in range(2)] == [None, None]


def test_the_key_that_came_first_goes() -> None:
    recent: Recent[str, int] = Recent(2)
    for each in range(3):
        recent.put(str(each), 1, each)
    assert [recent.find(str(each), 1) for each in range(3)] == [None, 1, 2]


def test_another_version_and_what_was_forgotten_are_not_found() -> None:
    recent: Recent[str, int] = Recent(2)
    recent.put("run", 1, 5)
    assert recent.find("run", 2) is None
    recent.forget("run")
    recent.forget("run")
    assert recent.find("run", 1) is None
