"""Hypothesis strategies for specifications: right by construction, and as wide as the schema allows where pods are made from them."""

from typing import Any

from hypothesis import strategies as st

from finetune_api.resource import parse_spec
from finetune_api.spec import FineTuneJobSpec

DNS_NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
JOB_NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
UIDS = st.uuids(version=4).map(str)
LABEL_NAMES = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True)
LABELS = st.dictionaries(st.one_of(LABEL_NAMES, LABEL_NAMES.map(lambda name: f"example.com/{name}")), LABEL_NAMES, max_size=3)
SECRETS = DNS_NAMES.map(lambda name: {"name": name})
QUANTITIES = st.sampled_from(["64Mi", "16Gi", "1.5Gi", "24000M", "1e10", "64Ti"])
PATHS = st.text(st.sampled_from("abz019._-$()"), min_size=1, max_size=12).filter(lambda path: path.strip(".") != "")
PVC_URIS = st.builds(lambda claim, path: f"pvc://{claim}/{path}", DNS_NAMES, PATHS)
URIS = st.one_of(PATHS.map(lambda path: f"s3://bucket/{path}"), PVC_URIS)
VALUES = st.text(max_size=12)


def _objects(required: dict[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


TOLERATIONS = st.one_of(
    st.just({"operator": "Exists"}),
    _objects({"key": LABEL_NAMES, "value": LABEL_NAMES}, effect=st.sampled_from(["NoSchedule", "NoExecute"])),
    _objects({"key": LABEL_NAMES, "operator": st.just("Exists"), "effect": st.just("NoExecute")}, tolerationSeconds=st.integers(0, 3600)),
)
ENV = st.dictionaries(
    st.from_regex(r"[A-EG-JO-Z][A-Z0-9_]{0,10}", fullmatch=True).filter(lambda n: not n.startswith("PYTHON")), VALUES
).map(lambda pairs: [{"name": name, "value": value} for name, value in pairs.items()])
GPU_RESOURCES = _objects(
    {"gpus": st.just(1)},
    gpuResource=st.sampled_from(["nvidia.com/gpu", "nvidia.com/mig-3g.40gb"]),
    minGpuMemory=QUANTITIES,
    gpuProducts=st.lists(LABEL_NAMES, max_size=2, unique=True),
    memory=QUANTITIES,
    cpu=st.sampled_from(["500m", "4", 2, "1.5"]),
    ephemeralStorage=QUANTITIES,
)
CLAIMED_RESOURCES = _objects({"gpus": st.just(1), "gpuClaimTemplate": DNS_NAMES}, memory=QUANTITIES)
CPU_RESOURCES = _objects({"gpus": st.just(0)}, memory=QUANTITIES, cpu=st.sampled_from(["1m", "1024"]))
SPEC_MANIFESTS = _objects(
    {
        "model": _objects({"uri": URIS}, credentialsSecret=SECRETS),
        "dataset": _objects({"uri": URIS}, credentialsSecret=SECRETS, eval=_objects({"uri": URIS}, credentialsSecret=SECRETS)),
        "output": _objects({"uri": URIS}, credentialsSecret=SECRETS),
    },
    method=_objects({}, adapter=st.builds(lambda modules: {"targetModules": modules}, st.sampled_from(["all-linear", "q_proj$", ".*$$"]))),
    resources=st.one_of(GPU_RESOURCES, CLAIMED_RESOURCES, CPU_RESOURCES),
    scheduling=_objects({}, queueName=DNS_NAMES, priorityClassName=DNS_NAMES),
    pod=_objects(
        {},
        nodeSelector=LABELS,
        tolerations=st.lists(TOLERATIONS, max_size=3),
        labels=LABELS,
        env=ENV,
        imagePullSecrets=st.lists(SECRETS, max_size=2, unique_by=lambda secret: secret["name"]),
    ),
    suspend=st.booleans(),
    backoffLimit=st.integers(0, 100),
    activeDeadlineSeconds=st.none() | st.integers(1, 31_536_000),
    ttlSecondsAfterFinished=st.none() | st.integers(0, 31_536_000),
)
SPECS: st.SearchStrategy[FineTuneJobSpec] = SPEC_MANIFESTS.map(parse_spec)
