"""What Flux and Argo CD see of a run in each of its phases: by the Go library that Flux uses, and by the Lua that Argo CD is given."""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import lupa.lua51
import pytest
import yaml

from finetune_api.exit_codes import ExitCode
from finetune_devcluster.binaries import ensure_binaries
from finetune_devcluster.errors import DevClusterError
from tests.support.live_run import LiveRun, NewRun, Object, wait_until
from tests.support.manifests import build_minimal_manifest
from tests.support.world import build_summary

pytestmark = pytest.mark.cluster
HEALTH = Path(__file__).parents[3] / "examples" / "gitops" / "argocd" / "health.lua"

EXPECTED = {
    "created": ("InProgress", "Progressing"),
    "waits for a node": ("InProgress", "Progressing"),
    "trains": ("InProgress", "Progressing"),
    "suspended": ("Current", "Suspended"),
    "changed, not yet seen": ("InProgress", "Progressing"),
    "succeeded": ("Current", "Healthy"),
    "failed": ("Failed", "Degraded"),
}
"""Status by kstatus and health by Argo CD. Waiting for a GPU is no fault: on a shared cluster it is how a run begins."""


def compute_kstatus(bodies: list[Object]) -> list[str]:
    """Return what kstatus makes of each object."""
    program = ensure_binaries(["kstatus"])["kstatus"]
    text = "\n".join(map(json.dumps, bodies))
    return subprocess.run([str(program)], input=text, capture_output=True, text=True, check=True, timeout=60).stdout.split()


def compute_health(body: Object) -> tuple[str, str]:
    """Return what Argo CD makes of an object: health, and the message beside it."""
    lua = lupa.lua51.LuaRuntime(unpack_returned_tuples=True, register_eval=False)
    lua.globals().obj = lua.table_from(body, recursive=True)
    health: Any = lua.execute(HEALTH.read_text())
    return health.status, health.message


def compute_drift(run: LiveRun, manifest: str) -> str:
    """Return what kubectl says would change, were the manifest applied again."""
    try:
        return run.cluster.kubectl("diff", "--server-side", "--field-manager=flux", "-f", "-", stdin=manifest)
    except DevClusterError as error:
        return str(error)  # its exit code says that there is a difference


def test_every_phase_is_seen_for_what_it_is(new_run: NewRun) -> None:
    seen: dict[str, Object] = {}
    run, stuck, bad = new_run("run"), new_run("stuck"), new_run("bad")
    seen["created"] = run.apply()
    run.wait_phase("Running")
    seen["trains"] = run.get()
    run.patch({"suspend": True})
    run.wait_phase("Suspended")
    seen["suspended"] = run.get()
    run.patch({"suspend": False})
    changed = copy.deepcopy(seen["suspended"])
    changed["metadata"]["generation"] += 1
    seen["changed, not yet seen"] = changed
    run.wait_pod()
    run.end_pod(0, build_summary())
    run.wait_phase("Succeeded")
    seen["succeeded"] = run.get()

    stuck.apply({"pod": {"nodeSelector": {"example.com/pool": "none"}}})
    stuck.wait_reason("NoFittingNode")
    seen["waits for a node"] = stuck.get()

    bad.apply()
    bad.end_pod(int(ExitCode.DATA_INVALID))
    bad.wait_phase("Failed")
    seen["failed"] = bad.get()

    by_kstatus = dict(zip(seen, compute_kstatus(list(seen.values())), strict=True))
    healths = {moment: compute_health(body) for moment, body in seen.items()}
    assert {moment: (by_kstatus[moment], healths[moment][0]) for moment in seen} == EXPECTED
    assert all(message for _, message in healths.values())
    assert "node" in healths["waits for a node"][1]


@pytest.mark.parametrize("moment", ["created", "Running", "Succeeded"])
def test_applying_it_again_changes_nothing(new_run: NewRun, moment: str) -> None:
    """No drift: what the operator and the API server add is nobody's difference to what is in Git."""
    run: LiveRun = new_run("run")
    manifest = yaml.safe_dump(build_minimal_manifest("run", run.namespace))
    run.cluster.kubectl("apply", "--server-side", "--field-manager=flux", "-f", "-", stdin=manifest)
    if moment != "created":
        run.wait_phase("Running")
    if moment == "Succeeded":
        run.end_pod(0, build_summary())
        run.wait_phase("Succeeded")
    before = run.get()["metadata"]
    # Between the two reads that kubectl compares the operator may write the status: a drift is a difference that stays.
    wait_until(lambda: not compute_drift(run, manifest), "kubectl finds no difference", explain=lambda: compute_drift(run, manifest))
    run.cluster.kubectl("apply", "--server-side", "--field-manager=flux", "-f", "-", stdin=manifest)
    after = run.get()["metadata"]
    assert after["generation"] == before["generation"]
    assert "annotations" not in after, "nothing is left on the resource"
