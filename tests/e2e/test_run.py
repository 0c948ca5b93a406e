"""One run, from kubectl apply to an adapter that others can use."""

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import Run, Runs
from tests.support.timeline import EVENTS, Object, phase_of, step_of

pytestmark = pytest.mark.node

STEPS = 700
OTHER_STATUS_PATCHES = 4
"""What DESIGN.md allows a run besides its progress."""
PROGRESS_SECONDS = 5.0
UNSEEN = {"status": {"observedGeneration": -1}}
"""A run that no operator has looked at, as the API server fills it in: nobody's patch."""

GENERATE = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32), sys.argv[2]).eval()
inputs = tokenizer("What is 7 plus 7? ", return_tensors="pt")
inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
with torch.inference_mode():
    after = model(**inputs).logits
    with model.disable_adapter():
        before = model(**inputs).logits
    output = model.generate(**inputs, do_sample=False, max_new_tokens=12)
print("changed", bool((after - before).abs().max() > 1e-3))
print("text", tokenizer.decode(output[0, inputs["input_ids"].shape[1]:]))
"""


@pytest.fixture(scope="module")
def run(runs: Runs, shared_namespace: str) -> Run:
    """A run of its own in its own namespace; all tests of this module look at it."""
    patch = {"training": {"maxSteps": STEPS, "checkpoint": {"everySteps": 100}}, "dataset": {"evalFraction": 0.05}}
    return runs.apply(shared_namespace, "whole", patch)


@pytest.fixture(scope="module")
def succeeded(run: Run) -> Object:
    """The run when it has succeeded."""
    return run.wait_success()


def test_phases_lead_from_pending_to_succeeded(run: Run, succeeded: Object) -> None:
    # In this order, each once: no phase is left and come back to. The first status may come when the pod has its node already.
    phases = [phase for phase, _ in itertools.groupby(phase_of(body) for body in run.history()) if phase]
    assert phases == [phase for phase in ("Pending", "Starting", "Running", "Succeeded") if phase in phases]
    assert phases[-2:] == ["Running", "Succeeded"]
    status = succeeded["status"]
    assert status["progress"]["percentage"] == 100
    assert status["progress"]["step"] == status["progress"]["totalSteps"] == STEPS
    assert (status["restarts"], status["observedGeneration"]) == (0, 1)
    assert status["dataset"] == {"examples": 190, "evalExamples": 10, "dropped": 0, "truncated": 0, "duplicates": 0, "malformed": 0}
    # Counted by the operator from the trainer's own summary: nothing stands there that only a report has told.
    assert status["metrics"]["evalLoss"] < status["metrics"]["baseEvalLoss"]


def test_progress_and_loss_are_seen_while_it_runs(runs: Runs, run: Run, succeeded: Object) -> None:
    running = [body for body in run.history() if phase_of(body) == "Running" and step_of(body) > 0]
    seen = [(body["status"]["progress"]["percentage"], body["status"]["metrics"]["loss"]) for body in running]
    percentages = [percentage for percentage, _ in seen]
    assert len(set(percentages)) >= 2, seen
    assert percentages == sorted(percentages)
    # A batch's loss is by chance above another's: that training helps is what the held-out loss says, above.
    assert all(0 < loss < 2 * succeeded["status"]["metrics"]["baseEvalLoss"] for _, loss in seen), seen
    runs.notes.append(f"seen while it ran: {', '.join(f'{percentage}% {loss:.3f}' for percentage, loss in seen)}")


def test_the_artifact_in_the_store_is_what_status_says_and_peft_uses_it(
    run: Run, succeeded: Object, base_model: Path, tmp_path: Path
) -> None:
    (artifact,) = succeeded["status"]["artifacts"]
    folder = download_verified(run.store, artifact, tmp_path / "adapter")
    said = subprocess.run(
        [sys.executable, "-c", GENERATE, str(base_model), str(folder)], capture_output=True, text=True, timeout=180, check=False
    )
    assert said.returncode == 0, said.stderr
    assert "changed True" in said.stdout
    assert "text " in said.stdout


def test_writes_of_the_operator_stay_within_the_budget(runs: Runs, run: Run, succeeded: Object) -> None:
    del succeeded
    writes = [
        (event["verb"], event["objectRef"]["resource"], event["objectRef"].get("subresource", ""))
        for line in runs.cluster.audit_log.read_text().splitlines()
        if (event := json.loads(line)).get("objectRef", {}).get("namespace") == run.namespace
        and event["user"]["username"] == runs.release.user
        and event["responseStatus"]["code"] < 400
    ]
    assert writes.count(("create", "jobs", "")) == 1
    patches = writes.count(("patch", "finetunejobs", "status"))
    history = run.history()
    # The first version seen may have a status already: the operator's own, or what the API server gives a run that nobody has looked at.
    others = [change for old, new in itertools.pairwise([UNSEEN, *history]) if (change := describe_change(old, new))]
    progress = patches - len(others)
    runs.notes.append(f"status patches: {len(others)} besides {progress} of progress")
    assert len(others) <= OTHER_STATUS_PATCHES, "\n".join(others)
    first, last = (parse_seconds(body) for body in (history[0], history[-1]))
    assert progress <= 1 + (last - first) / PROGRESS_SECONDS
    assert set(writes) == {("create", "jobs", ""), ("patch", "finetunejobs", "status"), ("create", "events", "")}


def test_events_tell_its_way(runs: Runs, run: Run, succeeded: Object) -> None:
    uid = succeeded["metadata"]["uid"]

    def find() -> dict[str, Object]:
        events = runs.timeline.alive(EVENTS, run.namespace)
        return {event["reason"]: event for event in events if event["involvedObject"].get("uid") == uid}

    runs.timeline.wait(lambda: {"Training", "Completed"} <= find().keys(), 10, "Events of start and end", find)
    events = find()
    assert {event["type"] for event in events.values()} == {"Normal"}
    assert succeeded["status"]["artifacts"][0]["uri"] in events["Completed"]["message"]
    assert succeeded["status"]["pod"]["name"] in events["Training"]["message"]
    assert "Completed" in run.kubectl("describe", "finetunejob", run.name)


def download_verified(store: Any, artifact: Object, folder: Path) -> Path:
    """Download an artifact and hold every byte of it to the digest in status."""
    root = artifact["uri"].removeprefix("s3://")
    content: bytes = store.cat_file(f"{root}/manifest.json")
    assert digest(content) == artifact["digest"]
    files = json.loads(content)["files"]
    stored = {str(path).removeprefix(f"{root}/") for path in store.find(root)}
    assert stored == {file["path"] for file in files} | {"manifest.json"}
    for file in files:
        content = store.cat_file(f"{root}/{file['path']}")
        assert (len(content), digest(content)) == (file["sizeBytes"], file["digest"])
        path = folder / file["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert sum(file["sizeBytes"] for file in files) == artifact["sizeBytes"]
    return folder


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def describe_change(old: Object, new: Object) -> str:
    """Return what differs in the parts of status that reports do not write; nothing where they are the same."""
    before, after = (
        {key: value for key, value in body.get("status", {}).items() if key not in ("progress", "metrics", "dataset")}
        for body in (old, new)
    )
    changed = {key: (before.get(key), after.get(key)) for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)}
    return "; ".join(f"{key}: {was} -> {now}" for key, (was, now) in changed.items())


def parse_seconds(body: Object) -> float:
    """Return when this version was written, by the newest entry of its managed fields, in seconds."""
    from datetime import datetime

    times = [entry["time"] for entry in body["metadata"].get("managedFields", [])]
    return max((datetime.fromisoformat(time).timestamp() for time in times), default=0.0)
