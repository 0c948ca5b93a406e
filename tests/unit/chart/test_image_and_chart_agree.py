"""The Dockerfile, the chart and the trainer's pod speak of the same user, and the operator's image has only the operator's libraries."""

import re
from pathlib import Path

from finetune_operator.desired.pod import USER_ID
from tests.unit.chart.conftest import Render

DOCKERFILE = (Path(__file__).parents[3] / "Dockerfile").read_text()


def read_stage(name: str) -> str:
    """Return the lines of a stage of the Dockerfile."""
    found = re.search(rf"^FROM \S+ AS {name}$\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.DOTALL | re.MULTILINE)
    assert found, f"the Dockerfile has no stage {name}"
    return found[1]


def test_images_run_as_the_user_of_the_pods(render: Render) -> None:
    for stage in ("operator", "trainer"):
        assert f"\nUSER {USER_ID}:{USER_ID}\n" in read_stage(stage)
    (deployment,) = (each for each in render() if each["kind"] == "Deployment")
    assert deployment["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == USER_ID


def test_each_image_starts_its_program() -> None:
    for stage in ("operator", "trainer"):
        assert f'ENTRYPOINT ["finetune-{stage}"]' in read_stage(stage)


def test_each_image_has_its_own_requirements() -> None:
    for stage in ("operator", "trainer"):
        copied = re.findall(r"/requirements/(\S+)", read_stage(f"{stage}-dependencies"))
        assert copied == [stage]


def test_no_compiler_is_in_an_image_that_was_not_asked_for_it() -> None:
    assert "\nARG TRAINER_PACKAGES=\n" in read_stage("trainer")
    assert "apt-get" not in DOCKERFILE.replace(read_stage("trainer"), "")


def test_no_place_that_packages_come_from_is_named() -> None:
    """Registries and indexes are the builder's environment's business; comments may have examples."""
    instructions = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    assert "://" not in instructions
    assert not re.search(r"[a-z0-9-]+\.(com|org|io|dev)/", instructions)
