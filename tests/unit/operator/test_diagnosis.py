"""What keeps a run from training, in words that a person can act on."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from finetune_api.reasons import Reason
from finetune_api.status import Phase
from finetune_operator.observation import Refusal
from finetune_operator.status.diagnosis import NEEDS_HELP, NOT_ADMITTED, Diagnosis, compute_diagnosis, diagnose_refusal
from tests.support.manifests import Manifest
from tests.support.world import (
    TRAINER,
    build_ended_pod,
    build_finetunejob,
    build_pod,
    build_stored_job,
    build_summary,
    condition,
    observe,
    running,
    waiting,
)

PULL = 'rpc error: code = NotFound desc = failed to pull and unpack image "registry.example.com/trainer:1": not found'
UNSCHEDULABLE = (
    "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 Insufficient nvidia.com/gpu. "
    "no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
)
FORBIDDEN = 'Error creating: pods "support-bot-b8a9b-0-{}" is forbidden: '
QUOTA = "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=4, limited: requests.nvidia.com/gpu=4"
POD_SECURITY = 'violates PodSecurity "restricted:latest": seccompProfile (pod or container "trainer" must set securityContext…)'


def _diagnose(*pods: Manifest, job: Manifest | None = None, spec: Manifest | None = None, **seen: Any) -> Diagnosis:
    jobs = [job if job is not None else build_stored_job(suspend=False)]
    return compute_diagnosis(observe(build_finetunejob(spec), jobs=jobs, pods=pods, **seen))


@dataclass(frozen=True)
class Case:
    """A pod that doesn't train, and what is said of it."""

    name: str
    pod: Manifest
    phase: Phase
    reason: Reason
    message: str

    def __str__(self) -> str:
        """Return the name, for pytest."""
        return self.name


UNSCHEDULED = build_pod(node=None, conditions=[condition("PodScheduled", "Unschedulable", UNSCHEDULABLE, "False")])
CASES = [
    Case("just made", build_pod(node=None), Phase.PENDING, Reason.WAITING_FOR_POD, "Waits for its pod to be created and given a node."),
    Case(
        "unschedulable",
        UNSCHEDULED,
        Phase.PENDING,
        Reason.UNSCHEDULABLE,
        "No node can take the pod now: 0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, "
        "2 Insufficient nvidia.com/gpu. It asks for cpu 2, memory 16Gi, nvidia.com/gpu 1.",
    ),
    Case(
        "starting",
        build_pod(state=waiting("ContainerCreating")),
        Phase.STARTING,
        Reason.STARTING,
        "The pod starts on node node-1: its image is pulled, its container made.",
    ),
    Case(
        "image pull",
        build_pod(state=waiting("ErrImagePull", PULL)),
        Phase.STARTING,
        Reason.IMAGE_PULL_FAILED,
        f"The image {TRAINER.image} can't be pulled. {PULL}",
    ),
    Case(
        "no such Secret",
        build_pod(state=waiting("CreateContainerConfigError", 'secret "team-s3" not found')),
        Phase.STARTING,
        Reason.SECRET_NOT_FOUND,
        "Secret team-s3 does not exist in namespace team-a; create it, and the pod starts.",
    ),
    Case(
        "container that can't be made",
        build_pod(state=waiting("CreateContainerConfigError", "container has runAsNonRoot and image will run as root")),
        Phase.STARTING,
        Reason.CONTAINER_CONFIG_INVALID,
        "The container can't be made: container has runAsNonRoot and image will run as root",
    ),
    Case(
        "training",
        build_pod(phase="Running", state=running()),
        Phase.RUNNING,
        Reason.TRAINING,
        "The trainer runs in pod support-bot-pod on node node-1.",
    ),
    Case(
        "asked to stop",
        build_pod(phase="Running", state=running(), deleting=True),
        Phase.RUNNING,
        Reason.INTERRUPTED,
        "The pod was asked to stop: the trainer writes a checkpoint, and the next pod resumes.",
    ),
    Case(
        "interrupted",
        build_ended_pod(75, build_summary("interrupted", Reason.INTERRUPTED, message="Checkpoint of step 40 is published.")),
        Phase.STARTING,
        Reason.INTERRUPTED,
        "Checkpoint of step 40 is published. The next pod resumes from the last checkpoint.",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_pod_that_does_not_train(case: Case) -> None:
    assert _diagnose(case.pod) == Diagnosis(case.phase, case.reason, case.message)


@pytest.mark.parametrize(
    "words",
    [f'Back-off pulling image "{TRAINER.image}": ErrImagePull: {PULL}', f'Back-off pulling image "{TRAINER.image}": {PULL}'],
)
def test_the_kubelet_s_back_off_changes_no_message(words: str) -> None:
    """The kubelet goes to and fro between the two every few seconds: each difference would be a write."""
    first = _diagnose(build_pod(state=waiting("ErrImagePull", PULL)))
    assert _diagnose(build_pod(state=waiting("ImagePullBackOff", words))) == first


@pytest.mark.parametrize("why", ["InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"])
def test_other_troubles_with_the_image(why: str) -> None:
    diagnosis = _diagnose(build_pod(state=waiting(why, "details")))
    assert diagnosis.reason is Reason.IMAGE_PULL_FAILED
    assert diagnosis.message.endswith("details")


def test_a_pod_gone_for_good_does_not_hide_the_one_that_lives() -> None:
    assert _diagnose(build_ended_pod(1, name="a"), build_pod("b", phase="Running", state=running())).reason is Reason.TRAINING


def test_a_crash_says_which_retry_follows() -> None:
    pods = [build_ended_pod(1, name="a"), build_ended_pod(75, name="b"), build_ended_pod(1, "Traceback: boom", name="c")]
    diagnosis = _diagnose(*pods)
    assert (diagnosis.phase, diagnosis.reason) == (Phase.STARTING, Reason.RETRYING)
    assert "Traceback: boom" in diagnosis.message
    assert diagnosis.message.endswith("Retry 2 of 3 follows.")
    assert _diagnose(*pods, job=build_stored_job(suspend=False, failed=2)) == diagnosis, "the Job's own count comes later"


REFUSALS = [
    (FORBIDDEN.format("x7k2p") + QUOTA, Reason.QUOTA_EXCEEDED, f"A ResourceQuota of the namespace has no room: {QUOTA}"),
    (
        FORBIDDEN.format("x7k2p") + "failed quota: compute: must specify limits.cpu",
        Reason.QUOTA_EXCEEDED,
        "A ResourceQuota of the namespace has no room: failed quota: compute: must specify limits.cpu",
    ),
    (FORBIDDEN.format("x7k2p") + POD_SECURITY, Reason.POLICY_REFUSED, f"The cluster's policy refuses the pod: {POD_SECURITY}"),
    (
        FORBIDDEN.format("x7k2p") + "maximum memory usage per Container is 8Gi, but limit is 16Gi",
        Reason.POLICY_REFUSED,
        "The cluster's policy refuses the pod: maximum memory usage per Container is 8Gi, but limit is 16Gi",
    ),
    (
        FORBIDDEN.format("x7k2p") + "no PriorityClass with name research was found",
        Reason.POLICY_REFUSED,
        "The cluster's policy refuses the pod: no PriorityClass with name research was found",
    ),
    (
        'Error creating: admission webhook "policy.example.com" denied the request: no',
        Reason.POLICY_REFUSED,
        'The cluster\'s policy refuses the pod: Error creating: admission webhook "policy.example.com" denied the request: no',
    ),
    (
        "Error creating: etcdserver: no leader",
        Reason.POD_CREATION_FAILED,
        "The pod can't be created: Error creating: etcdserver: no leader",
    ),
]


@pytest.mark.parametrize(("words", "reason", "message"), REFUSALS, ids=[f"{reason}-{n}" for n, (_, reason, _) in enumerate(REFUSALS)])
def test_a_pod_that_is_refused(words: str, reason: Reason, message: str) -> None:
    assert _diagnose(warning=words) == Diagnosis(Phase.PENDING, reason, message)


@pytest.mark.parametrize("verdict", ["is forbidden", "is invalid"])
def test_the_random_name_of_a_refused_pod_is_no_difference(verdict: str) -> None:
    """The Job controller tries again and again, each time under another name: each difference would be a write."""
    pod = "pods" if verdict == "is forbidden" else "Pod"
    messages = {diagnose_refusal(f'Error creating: {pod} "support-bot-{name}" {verdict}: spec: no').message for name in ("aaaaa", "bbbbb")}
    assert len(messages) == 1


def test_a_refusal_of_the_job_itself_is_told() -> None:
    refusal = Refusal(Reason.QUOTA_EXCEEDED, "A ResourceQuota of the namespace has no room: count/jobs.batch")
    diagnosis = compute_diagnosis(observe(refusal=refusal))
    assert diagnosis == Diagnosis(Phase.PENDING, Reason.QUOTA_EXCEEDED, refusal.message)


def test_a_run_is_queued_while_its_queue_holds_it_back() -> None:
    spec = {"scheduling": {"queueName": "team-a"}}
    job = build_stored_job(suspend=True, conditions=[condition("Suspended", "JobSuspended")])
    assert _diagnose(job=job, spec=spec) == Diagnosis(Phase.QUEUED, Reason.QUEUED, "Waits in queue team-a.")


def test_a_suspended_run_stops_and_then_is_suspended() -> None:
    spec = {"suspend": True}
    stopping = _diagnose(build_pod(phase="Running", state=running()), spec=spec)
    assert (stopping.phase, stopping.reason) == (Phase.RUNNING, Reason.STOPPING)
    assert _diagnose(build_ended_pod(75), spec=spec).phase is Phase.SUSPENDED
    assert _diagnose(spec=spec).phase is Phase.SUSPENDED


def test_a_suspended_run_whose_job_is_gone_still_stops_while_its_pod_does() -> None:
    pod = build_pod(phase="Running", state=running(), controller="gone", deleting=True)
    diagnosis = compute_diagnosis(observe(build_finetunejob({"suspend": True, "scheduling": {"queueName": "q"}}), pods=[pod]))
    assert diagnosis.reason is Reason.STOPPING


def test_a_run_says_that_it_waits_for_the_pod_of_its_last_job() -> None:
    pod = build_pod("old", phase="Running", state=running(), controller="gone", deleting=True)
    assert "Waits for pod old of the former Job to end" in compute_diagnosis(observe(pods=[pod])).message


def test_simulated_gpus_are_said() -> None:
    diagnosis = _diagnose(build_pod(phase="Running", state=running()), simulated_gpus=True)
    assert diagnosis.message.endswith("It trains on the CPU: this cluster's GPUs are simulated.")


def test_nothing_changes_between_claim_and_pod() -> None:
    """One status write serves the claim, the Job and the pod that waits for the scheduler."""
    before = compute_diagnosis(observe())
    assert _diagnose() == before
    assert _diagnose(build_pod(node=None)) == before


def test_what_needs_help_and_what_waits_for_the_cluster() -> None:
    assert {Reason.IMAGE_PULL_FAILED, Reason.SECRET_NOT_FOUND, Reason.POLICY_REFUSED, Reason.NAME_TAKEN} <= NEEDS_HELP
    assert Reason.UNSCHEDULABLE not in NEEDS_HELP
    assert {Reason.QUEUED, Reason.QUOTA_EXCEEDED, Reason.UNSCHEDULABLE} <= NOT_ADMITTED


MISFIT = "No node of the cluster could take the run, even an empty one: none has nvidia.com/gpu (resources.gpuResource)."


@pytest.mark.parametrize(
    ("pods", "job", "phase"),
    [
        ([], build_stored_job(suspend=False), Phase.PENDING),
        ([UNSCHEDULED], build_stored_job(suspend=False), Phase.PENDING),
        ([], build_stored_job(suspend=True), Phase.QUEUED),
    ],
    ids=["no pod yet", "unschedulable", "queued"],
)
def test_that_no_node_could_take_it_is_said_while_it_waits(pods: list[Manifest], job: Manifest, phase: Phase) -> None:
    observation = replace(observe(build_finetunejob(), jobs=[job], pods=pods), misfit=MISFIT)
    assert compute_diagnosis(observation) == Diagnosis(phase, Reason.NO_FITTING_NODE, MISFIT)


def test_what_is_in_the_way_before_that_comes_first() -> None:
    refused = observe(build_finetunejob(), refusal=Refusal(Reason.QUOTA_EXCEEDED, "no room"))
    assert compute_diagnosis(replace(refused, misfit=MISFIT)).reason is Reason.QUOTA_EXCEEDED


def test_an_autoscaler_may_add_the_node_so_the_run_is_not_called_stalled() -> None:
    assert Reason.NO_FITTING_NODE in NOT_ADMITTED - NEEDS_HELP
