"""The command line takes every plain scalar for what kubectl takes it for."""

import json

import pytest

from finetune_cli.yaml_reader import read_documents
from finetune_devcluster import Cluster

pytestmark = pytest.mark.cluster

SCALARS = """
    2e-4 2E4 1e5 1.5 .5 5. -.5 +.5 1_000 1_0.5 1e 1.e5 .e5 0. 00 08 0.0 -0 1e400 1__0 _1 1_ 1,000 2e04 1e+3 1.0 1e0
    017 0o17 0x1F 0b11 -0x1F +5 0x 0b2 0777 -017 0xg
    yes no on off y n Y N True TRUE true tRue False NO nO Off null Null NULL ~
    1:30 1:30:00 2024-01-01 2024-01-01T00:00:00Z = += 16Gi 500m 1.2.3 v1 inf nan 1-2 --5
"""


def test_every_scalar_is_read_alike(control_plane: Cluster) -> None:
    scalars = SCALARS.split()
    manifest = "apiVersion: finetune.dev/v1alpha1\nkind: FineTuneJob\nmetadata: {name: a}\nspec:\n" + "".join(
        f"  v{index}: {scalar}\n" for index, scalar in enumerate(scalars)
    )
    answer = control_plane.kubectl("create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-", stdin=manifest)
    (document,) = read_documents(manifest)
    kubectls = json.loads(answer)["spec"]
    ours = document.value["spec"]
    assert {scalar: json.dumps(ours[f"v{index}"]) for index, scalar in enumerate(scalars)} == {
        scalar: json.dumps(kubectls[f"v{index}"]) for index, scalar in enumerate(scalars)
    }
