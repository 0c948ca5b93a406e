"""The smallest patch from one status to the next."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from finetune_api.artifact import Artifact
from finetune_api.base import format_time
from finetune_api.progress import DatasetCounts, LossPoint, Metrics, Progress
from finetune_api.reasons import Reason
from finetune_api.status import Condition, ConditionType, FineTuneJobStatus, Phase, PodReference
from finetune_operator.status.patch import build_status_patch, merge_value
from tests.support.manifests import merge
from tests.support.world import NOW, at, build_artifact

TIMES = st.integers(0, 10_000).map(at)
COUNTS = st.integers(0, 1000)
LOSSES = st.floats(-100, 100, allow_nan=False) | st.none()
MEASURES = st.floats(0, 100, allow_nan=False) | st.none()
METRICS = st.builds(
    Metrics,
    loss=LOSSES,
    eval_loss=LOSSES,
    learning_rate=MEASURES,
    tokens_seen=st.none() | COUNTS,
    history=st.lists(st.builds(LossPoint, step=COUNTS, loss=st.floats(0, 9)), max_size=3),
)
PROGRESS = st.builds(
    Progress,
    percentage=st.integers(0, 100),
    step=COUNTS,
    total_steps=COUNTS,
    epoch=st.floats(0, 9),
    estimated_remaining_seconds=st.none() | COUNTS,
    last_updated_time=TIMES,
)
CONDITIONS = st.lists(
    st.builds(
        Condition,
        type=st.sampled_from(list(ConditionType)),
        status=st.sampled_from(["True", "False", "Unknown"]),
        reason=st.sampled_from(list(Reason)),
        message=st.text(max_size=4),
        last_transition_time=TIMES,
        observed_generation=st.none() | COUNTS,
    ),
    max_size=4,
    unique_by=lambda condition: condition.type,
)
STATUSES = st.builds(
    FineTuneJobStatus,
    observed_generation=st.none() | COUNTS,
    phase=st.none() | st.sampled_from(list(Phase)),
    conditions=CONDITIONS,
    attempt=st.none() | COUNTS,
    job_name=st.none() | st.just("job"),
    pod=st.none() | st.builds(PodReference, name=st.just("a"), uid=st.just("b"), start_time=st.none() | TIMES, end_time=st.none() | TIMES),
    restarts=COUNTS,
    start_time=st.none() | TIMES,
    progress=st.none() | PROGRESS,
    metrics=st.none() | METRICS,
    dataset=st.none() | st.builds(DatasetCounts, examples=COUNTS),
    artifacts=st.lists(st.builds(build_artifact), max_size=1),
)


def _stored(status: FineTuneJobStatus) -> dict[str, Any]:
    return status.model_dump(mode="json", exclude_none=True)


@given(current=STATUSES, desired=STATUSES)
def test_applied_to_the_one_it_gives_the_other(current: FineTuneJobStatus, desired: FineTuneJobStatus) -> None:
    before = _stored(current)
    after = merge(before, build_status_patch(before, desired))
    assert {key: value for key, value in after.items() if value != []} == {
        key: value for key, value in _stored(desired).items() if value != []
    }
    assert FineTuneJobStatus.model_validate(after) == FineTuneJobStatus.model_validate(_stored(desired))


@given(STATUSES)
def test_no_change_is_no_patch(status: FineTuneJobStatus) -> None:
    assert build_status_patch(_stored(status), status) == {}


@given(current=STATUSES, desired=STATUSES)
def test_what_a_newer_release_wrote_is_kept(current: FineTuneJobStatus, desired: FineTuneJobStatus) -> None:
    before = {**_stored(current), "queuePosition": 7}
    assert "queuePosition" not in build_status_patch(before, desired)


@given(current=STATUSES, desired=STATUSES)
def test_a_field_that_is_the_same_is_not_sent(current: FineTuneJobStatus, desired: FineTuneJobStatus) -> None:
    before, after = _stored(current), _stored(desired)
    assert set(build_status_patch(before, desired)) == {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def test_only_what_changed_is_sent() -> None:
    before = FineTuneJobStatus(phase=Phase.RUNNING, restarts=1, start_time=NOW)
    patch = build_status_patch(_stored(before), before.model_copy(update={"restarts": 2, "start_time": None}))
    assert patch == {"restarts": 2, "startTime": None}


def test_a_key_that_goes_from_an_object_is_named_with_null() -> None:
    assert merge_value({"a": 1, "b": 2}, {"a": 1, "c": 3}) == {"a": 1, "b": None, "c": 3}


def test_so_is_one_that_goes_from_an_object_within_an_object() -> None:
    before, after = {"curves": {"steps": [1], "gradNorm": [2.0]}}, {"curves": {"steps": [1, 2]}}
    patch = merge_value(before, after)
    assert patch == {"curves": {"gradNorm": None, "steps": [1, 2]}}


def test_times_are_written_in_whole_seconds() -> None:
    status = FineTuneJobStatus(start_time=NOW.replace(microsecond=999_999))
    assert build_status_patch({}, status)["startTime"] == format_time(NOW)
    assert build_status_patch(_stored(status), status) == {}


def test_the_artifact_is_written_as_the_crd_has_it() -> None:
    (stored,) = build_status_patch({}, FineTuneJobStatus(artifacts=[build_artifact()]))["artifacts"]
    assert Artifact.model_validate(stored) == build_artifact()
    assert {"sizeBytes", "baseModel", "createdTime"} <= stored.keys()
