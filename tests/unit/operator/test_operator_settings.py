"""The operator's environment."""

import json

import pytest

from finetune_api.defaults import RecordedDefaults
from finetune_operator.settings import SettingsInvalid, TracingSettings, read_settings

IMAGE = {"FINETUNE_TRAINER_IMAGE": "registry.example.com/trainer:1"}


def test_the_image_is_enough() -> None:
    settings = read_settings(IMAGE)
    assert settings.trainer.image == IMAGE["FINETUNE_TRAINER_IMAGE"]
    assert (settings.namespace, settings.watch_namespaces, settings.report_port, settings.workers) == ("default", (), 8443, 16)
    assert settings.trainer.report_service == ""


def test_every_variable_is_read() -> None:
    settings = read_settings(
        {
            **IMAGE,
            "FINETUNE_TRAINER_IMAGE_PULL_POLICY": "Always",
            "FINETUNE_TRAINER_GRACE_SECONDS": "60",
            "FINETUNE_SIMULATED_GPUS": "True",
            "FINETUNE_REPORT_SERVICE": "reports.finetune-system.svc:443",
            "FINETUNE_OPERATOR_NAMESPACE": "finetune-system",
            "FINETUNE_WATCH_NAMESPACES": "team-a, team-b",
            "FINETUNE_REPORT_PORT": "9443",
            "FINETUNE_TLS_SECRET": "tls",
            "FINETUNE_HEALTH_PORT": "9090",
            "FINETUNE_LOG_LEVEL": "debug",
            "FINETUNE_LOG_FORMAT": "text",
            "FINETUNE_WORKERS": "4",
            "FINETUNE_RESYNC_SECONDS": "30",
            "FINETUNE_NODE_CHECK": "true",
            "FINETUNE_NODE_SECONDS": "5",
        }
    )
    assert settings.trainer.image_pull_policy == "Always"
    assert settings.trainer.grace_seconds == 60
    assert (settings.node_check, settings.node_seconds) == (True, 5.0)
    assert settings.trainer.simulated_gpus is True
    assert settings.trainer.report_service == "reports.finetune-system.svc:443"
    assert settings.namespace == "finetune-system"
    assert settings.watch_namespaces == ("team-a", "team-b")
    assert (settings.report_port, settings.health_port, settings.workers) == (9443, 9090, 4)
    assert (settings.tls_secret, settings.log_level, settings.log_format, settings.resync_seconds) == ("tls", "DEBUG", "text", 30.0)


def test_defaults_are_read_as_strictly_as_a_run() -> None:
    given = {"cluster": {"nodeSelector": {"pool": "gpu"}}, "namespaces": {"team-a": {"queueName": "team-a"}}}
    defaults = read_settings({**IMAGE, "FINETUNE_DEFAULTS": json.dumps(given)}).defaults
    assert defaults.of("team-b") == RecordedDefaults(node_selector={"pool": "gpu"})
    assert defaults.of("team-a") == RecordedDefaults(node_selector={"pool": "gpu"}, queue_name="team-a")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cluster": {"nodeSelectors": {}}}, "cluster.nodeSelectors: unknown field"),
        ({"namespaces": {"a": {"tolerations": [{"key": "k", "value": "v", "operator": "Exists"}]}}}, "namespaces.a.tolerations[0].value"),
        ({"cluster": {"env": [{"name": "PYTHONPATH", "value": "x"}]}}, "must not begin with a reserved prefix"),
        ({"cluster": {"tracking": [{"type": "mlflow"}]}}, "mlflow needs url"),
        ({"cluster": {"credentials": [{"prefix": "s3"}]}}, "cluster.credentials[0].prefix"),
        (
            {
                "cluster": {"nodeSelector": {f"a{index}": "" for index in range(20)}},
                "namespaces": {"team-a": {"nodeSelector": {f"b{index}": "" for index in range(20)}}},
            },
            "namespaces.team-a, together with cluster: node_selector: too many",
        ),
    ],
)
def test_defaults_that_no_run_could_have_are_refused(given: object, words: str) -> None:
    with pytest.raises(SettingsInvalid) as refusal:
        read_settings({**IMAGE, "FINETUNE_DEFAULTS": json.dumps(given)})
    assert words in str(refusal.value)


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(SettingsInvalid) as refusal:
        read_settings(
            {
                "FINETUNE_TRAINER_IMAGE_PULL_POLICY": "Sometimes",
                "FINETUNE_TRAINER_GRACE_SECONDS": "0",
                "FINETUNE_SIMULATED_GPUS": "perhaps",
                "FINETUNE_OPERATOR_NAMESPACE": "Not_A_Namespace",
                "FINETUNE_WATCH_NAMESPACES": "team-a,TEAM",
                "FINETUNE_REPORT_PORT": "65536",
                "FINETUNE_HEALTH_PORT": "-1",
                "FINETUNE_LOG_LEVEL": "loud",
                "FINETUNE_LOG_FORMAT": "xml",
                "FINETUNE_WORKERS": "many",
                "FINETUNE_RESYNC_SECONDS": "1.5",
                "FINETUNE_REPORT_SERVICE": "https://reports",
            }
        )
    faults = str(refusal.value).splitlines()
    assert len(faults) == 13
    assert all(fault.startswith("FINETUNE_") for fault in faults)
    assert "FINETUNE_LOG_FORMAT='xml': must be one of json, text" in faults


@pytest.mark.parametrize("service", ["reports", "https://reports:443", "reports:", "reports:70000", "10.0.0.1:443", "re ports:443", ":443"])
def test_a_report_service_is_a_name_and_a_port(service: str) -> None:
    with pytest.raises(SettingsInvalid, match="FINETUNE_REPORT_SERVICE"):
        read_settings({**IMAGE, "FINETUNE_REPORT_SERVICE": service})


def test_a_list_of_no_namespaces_does_not_mean_all_of_them() -> None:
    with pytest.raises(SettingsInvalid, match="FINETUNE_WATCH_NAMESPACES"):
        read_settings({**IMAGE, "FINETUNE_WATCH_NAMESPACES": " , "})


def test_empty_variables_count_as_absent() -> None:
    assert read_settings({**IMAGE, "FINETUNE_WORKERS": "", "FINETUNE_WATCH_NAMESPACES": "  "}) == read_settings(IMAGE)


def test_tracing_is_off_unless_a_receiver_is_named() -> None:
    assert read_settings({**IMAGE, "FINETUNE_TRACING_RATIO": "0.5"}).trainer.tracing is None
    given = {"FINETUNE_TRACING_ENDPOINT": "http://collector:4318/", "FINETUNE_TRACING_HEADERS": "a=b", "FINETUNE_TRACING_RATIO": "0.5"}
    assert read_settings({**IMAGE, **given}).trainer.tracing == TracingSettings("http://collector:4318", 0.5, "a=b")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FINETUNE_TRACING_ENDPOINT", "collector:4317"),
        ("FINETUNE_TRACING_ENDPOINT", "grpc://collector:4317"),
        ("FINETUNE_TRACING_ENDPOINT", "http://collector:4318/?key=x"),
        ("FINETUNE_TRACING_RATIO", "2"),
        ("FINETUNE_TRACING_RATIO", "nan"),
        ("FINETUNE_TRACING_RATIO", "some"),
    ],
)
def test_a_receiver_of_spans_is_an_address_and_a_share_is_a_share(name: str, value: str) -> None:
    with pytest.raises(SettingsInvalid, match=name):
        read_settings({**IMAGE, name: value})
