"""What may be shipped, by licence; and what is said of what may not."""

from email.message import Message
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest

from release.licences import Policy, Review, check_part, is_allowed, list_stale_reviews, main, read_licence
from release.packages import IMAGES, list_packages

POLICY = Policy.read()


def make_package(folder: Path, **metadata: str | list[str]) -> Distribution:
    info = folder / "thing-1.0.dist-info"
    info.mkdir(parents=True)
    message = Message()
    for name, value in {"Name": "thing", "Version": "1.0", **metadata}.items():
        for each in value if isinstance(value, list) else [value]:
            message[name.replace("_", "-")] = each
    (info / "METADATA").write_text(message.as_string())
    return PathDistribution(info)


def test_what_is_shipped_today_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("expression", "may"),
    [
        ("MIT", True),
        ("MIT AND Apache-2.0", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("MPL-2.0 AND (GPL-2.0-only OR MIT)", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("AGPL-3.0-or-later", False),
        ("LicenseRef-Ours", False),
        ("see the file LICENSE", False),
    ],
)
def test_all_of_an_and_and_one_of_an_or_must_be_allowed(expression: str, may: bool) -> None:
    assert is_allowed(expression, POLICY.allowed) is may


def test_a_licence_that_is_not_allowed_is_named_with_its_package_and_a_way_out(tmp_path: Path) -> None:
    (fault,) = check_part("operator", {"thing": make_package(tmp_path, License_Expression="AGPL-3.0-only")}, POLICY)
    assert fault.startswith("thing 1.0 (operator): has the licence 'AGPL-3.0-only'")
    assert "Replace the package" in fault


def test_a_package_that_states_nothing_is_not_waved_through(tmp_path: Path) -> None:
    (fault,) = check_part("operator", {"thing": make_package(tmp_path)}, POLICY)
    assert "states no licence" in fault


def test_several_classifiers_leave_open_whether_all_or_one_is_meant(tmp_path: Path) -> None:
    both = ["License :: OSI Approved :: MIT License", "License :: OSI Approved :: GNU General Public License (GPL)"]
    assert list(check_part("cli", {"thing": make_package(tmp_path, Classifier=both)}, POLICY)) != []


def test_a_licence_s_text_in_the_metadata_is_read_by_its_classifier(tmp_path: Path) -> None:
    package = make_package(tmp_path, License="Permission is hereby granted " * 9, Classifier="License :: OSI Approved :: MIT License")
    assert read_licence(package, POLICY.words) == "MIT"


def test_a_review_holds_for_the_parts_that_it_names_alone(tmp_path: Path) -> None:
    nvidia = {"nvidia-cublas": make_package(tmp_path, License_Expression="LicenseRef-NVIDIA-Proprietary")}
    assert list(check_part("trainer", nvidia, POLICY)) == []
    assert list(check_part("operator", nvidia, POLICY)) != []


def test_a_review_of_what_is_not_shipped_any_more_is_told() -> None:
    policy = Policy(frozenset(), {}, (Review(("gone", "here-*"), "MIT", ("cli",), "looked at"),))
    (fault,) = list_stale_reviews(frozenset({"here-1"}), policy)
    assert "names gone" in fault


def test_the_operator_s_image_has_no_training_library() -> None:
    packages = list_packages(IMAGES["operator"])
    assert {"kopf", "aiohttp", "pydantic"} <= set(packages)
    assert not {"torch", "transformers", "rich"} & set(packages)
