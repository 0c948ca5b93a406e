"""The two readers of a rule give one answer: the API server, by CEL, and Python, by the predicate beside it.

Specifications are made at random around the rules: mostly sound ones, with now and then a part that is not.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from finetune_api.resource import NAME_RULE, SpecInvalid, parse_spec
from finetune_devcluster import Cluster
from finetune_devcluster.api_client import ApiError
from tests.support.manifests import Manifest, build_minimal_manifest

pytestmark = pytest.mark.cluster

AGREEMENT = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def server_accepts(cluster: Cluster, manifest: Manifest) -> bool:
    url = "/apis/finetune.dev/v1alpha1/namespaces/default/finetunejobs?dryRun=All&fieldValidation=Strict"
    try:
        cluster.client.request("POST", url, manifest)
    except ApiError as error:
        if error.status in (400, 422):
            return False
        raise
    return True


def parse_accepts(spec: Manifest) -> bool:
    try:
        parse_spec(spec)
    except SpecInvalid:
        return False
    return True


def assert_agreement(cluster: Cluster, **sections: Manifest) -> None:
    manifest = build_minimal_manifest()
    for name, section in sections.items():
        manifest["spec"][name] = {**manifest["spec"].get(name, {}), **section}
    accepted = parse_accepts(manifest["spec"])
    event(f"accepted: {accepted}")
    assert server_accepts(cluster, manifest) is accepted, sections


AUTHORITIES = """r.io/a:v1 r.io/a/b
host bucket.name org a A-b a_b a. -a user@host h:80 h:0 h:70000 h:65535 h: 1.2.3.4 1.2 0x7f.1 0x7f000001 0177.1 [::1]
1234 1a.2 x.1 127.0.0.1. 127.0.0.1:80 é 0xg.com"""
authorities = st.sampled_from(["", "a b", *AUTHORITIES.split()])
segments = st.one_of(
    st.sampled_from(
        ["a", "name", "..", ".", "...", "%2e%2E", "%2e.", "a%2f..", "a@b", "?", "#", "\\", "%5c", "", " ", "\u200b", "é", "文", "\n"]
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cn", "Cs"]), max_size=4),
)
schemes = st.sampled_from(["hf", "s3", "gs", "https", "oci", "pvc"])
uris = st.builds(
    lambda scheme, separator, authority, path: scheme + separator + "/".join([authority, *path]),
    st.one_of(schemes, schemes, st.sampled_from(["http", "ftp", "HF", ""])),
    st.sampled_from(["://", "://", "://", "://", ":/", ":", ":///"]),
    authorities,
    st.lists(segments, max_size=4),
)


@AGREEMENT
@given(uri=uris, section=st.sampled_from(["model", "dataset", "output"]))
def test_uris(control_plane: Cluster, uri: str, section: str) -> None:
    assert_agreement(control_plane, **{section: {"uri": uri}})


endpoints = st.builds(
    lambda scheme, authority, path: f"{scheme}://{authority}{path}",
    st.sampled_from(["http", "https", "s3"]),
    authorities,
    st.sampled_from(["", "/", "/a"]),
)


@AGREEMENT
@given(endpoint=endpoints)
def test_endpoints(control_plane: Cluster, endpoint: str) -> None:
    assert_agreement(control_plane, output={"endpointUrl": endpoint})


quantities = st.one_of(
    st.integers(-(2**40), 2**48),
    st.integers(-3, 2000),
    st.floats(0, 100, allow_nan=False).filter(lambda number: not number.is_integer()),
    st.builds(
        lambda number, fraction, suffix: f"{number}{fraction}{suffix}",
        st.one_of(st.integers(0, 2000), st.integers(0, 2**40)),
        st.sampled_from(["", "", ".5", ".0001", "."]),
        st.sampled_from(
            [
                "",
                "m",
                "k",
                "M",
                "G",
                "T",
                "P",
                "E",
                "Ki",
                "Mi",
                "Gi",
                "Ti",
                "Pi",
                "Ei",
                "e3",
                "E3",
                "e-3",
                "e99",
                "K",
                " Gi",
                "gi",
                "n",
                "u",
            ]
        ),
    ),
)


@AGREEMENT
@given(field=st.sampled_from(["cpu", "memory", "minGpuMemory", "ephemeralStorage"]), quantity=quantities, gpus=st.integers(0, 1))
def test_quantities(control_plane: Cluster, field: str, quantity: str | float, gpus: int) -> None:
    assert_agreement(control_plane, resources={field: quantity, "gpus": gpus})


domains = st.sampled_from(
    [
        "finetune.dev",
        "a.finetune.dev",
        "notfinetune.dev",
        "kubernetes.io",
        "x-k8s.io",
        "k8s.io",
        "kueue.x-k8s.io",
        "a.b",
        "",
        "A.b",
        "a..b",
        "a.-b",
    ]
)
names = st.sampled_from(["a", "k8s.io", "-a", "a_b.c", "a" * 63, "a" * 64, "", "é", "a b", "a\n", "finetune.dev"])
keys = st.one_of(names, st.builds(lambda domain, name: f"{domain}/{name}", domains, names))


@AGREEMENT
@given(field=st.sampled_from(["labels", "nodeSelector"]), labels=st.dictionaries(keys, names, max_size=3))
def test_labels(control_plane: Cluster, field: str, labels: dict[str, str]) -> None:
    assert_agreement(control_plane, pod={field: labels})


variables = st.sampled_from(
    ["A", "FINETUNE_X", "FINETUNE", "LD_PRELOAD", "LDX", "PYTHONPATH", "PYTHO", "NVIDIA_X", "_a", "1a", "a-b", "", "A\n"]
)


@AGREEMENT
@given(env=st.lists(st.fixed_dictionaries({"name": variables}, optional={"value": names}), max_size=3))
def test_variables(control_plane: Cluster, env: list[dict[str, str]]) -> None:
    assert_agreement(control_plane, pod={"env": env})


tolerations = st.fixed_dictionaries(
    {},
    optional={
        "key": keys,
        "operator": st.sampled_from(["Exists", "Equal"]),
        "value": st.sampled_from(["", "a", "a b"]),
        "effect": st.sampled_from(["NoSchedule", "NoExecute"]),
        "tolerationSeconds": st.integers(-1, 5),
    },
)


@AGREEMENT
@given(toleration=tolerations)
def test_tolerations(control_plane: Cluster, toleration: Manifest) -> None:
    assert_agreement(control_plane, pod={"tolerations": [toleration]})


hub_or_store = st.sampled_from(["hf://org/name", "s3://bucket/path"])
revisions = st.sampled_from(["main", "refs/pr/1", "", "a b", "/a"])
sources: dict[str, st.SearchStrategy[Any]] = {"revision": revisions, "split": st.sampled_from(["train", "test[:5]", ""])}
datasets = st.fixed_dictionaries(
    {"uri": hub_or_store},
    optional={
        **sources,
        "evalFraction": st.floats(-0.1, 0.7),
        "eval": st.fixed_dictionaries({"uri": hub_or_store}, optional=sources),
    },
)


@AGREEMENT
@given(
    dataset=datasets,
    dtype=st.sampled_from(["bfloat16", "float16"]),
    quantization=st.sampled_from(["nf4", "int8", "fp8"]),
    dora=st.booleans(),
    gpus=st.integers(0, 1),
)
def test_what_must_fit_together(control_plane: Cluster, dataset: Manifest, dtype: str, quantization: str, dora: bool, gpus: int) -> None:
    method = {"adapter": {"dora": dora}, "quantization": {"type": quantization, "computeDtype": dtype}}
    assert_agreement(control_plane, dataset=dataset, method=method, resources={"gpus": gpus})


adapters = st.fixed_dictionaries(
    {"type": st.sampled_from(["lora", "adalora", "ia3", "prompt-tuning", "p-tuning", "prefix-tuning", "none"])},
    optional={
        "r": st.sampled_from([8, 16]),
        "initR": st.sampled_from([12, 24]),
        "alpha": st.sampled_from([16, 32]),
        "dropout": st.sampled_from([0, 0.05, 0.1]),
        "targetModules": st.sampled_from(["all-linear", "q_proj"]),
        "targetParameters": st.sampled_from(["experts", "experts.up,experts.down", "experts..*"]),
        "rslora": st.booleans(),
        "dora": st.booleans(),
        "loraPlusRatio": st.sampled_from([0.5, 1, 16]),
        "init": st.sampled_from(["default", "gaussian", "olora", "pissa", "eva", "loftq"]),
        "virtualTokens": st.integers(0, 3),
        "encoder": st.sampled_from(["mlp", "lstm"]),
    },
)


@AGREEMENT
@given(
    adapter=st.one_of(adapters, adapters.flatmap(lambda adapter: st.just({"type": adapter["type"]}))),
    quantization=st.sampled_from(["nf4", "int8", "fp8", "none"]),
    packing=st.booleans(),
    checkpointing=st.booleans(),
)
def test_adapters(control_plane: Cluster, adapter: Manifest, quantization: str, packing: bool, checkpointing: bool) -> None:
    method = {"adapter": adapter, "quantization": {"type": quantization}}
    assert_agreement(control_plane, method=method, training={"packing": packing, "gradientCheckpointing": checkpointing})


@AGREEMENT
@given(name=st.from_regex(r"[a-z0-9][-a-z0-9.]{0,62}[a-z0-9.-]?", fullmatch=True))
def test_names(control_plane: Cluster, name: str) -> None:
    assert server_accepts(control_plane, build_minimal_manifest(name)) is NAME_RULE.holds(name)
