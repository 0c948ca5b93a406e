"""What the kubelet and the log's readers are told."""

import json
import logging
import time

import pytest
from aiohttp.test_utils import TestClient, TestServer

from finetune_operator.health import STALE_AFTER, build_health_app
from finetune_operator.log_context import add_subject, speaking_of
from finetune_operator.logs import JsonFormatter

RESYNC_SECONDS = 10.0


@pytest.mark.parametrize(
    ("age", "alive", "ready"),
    [(None, 200, 503), (0.0, 200, 200), (STALE_AFTER * RESYNC_SECONDS, 200, 200), (STALE_AFTER * RESYNC_SECONDS + 61, 503, 200)],
    ids=["starting", "fresh", "a resync or two failed", "hung"],
)
async def test_alive_while_it_sees_the_cluster_and_ready_once_it_has(age: float | None, alive: int, ready: int) -> None:
    last = 0.0 if age is None else time.monotonic() - age
    app = build_health_app(lambda: last, RESYNC_SECONDS)
    async with TestClient(TestServer(app)) as client:
        for path, expected in (("/healthz", alive), ("/readyz", ready)):
            async with client.get(path) as answer:
                assert answer.status == expected


def test_a_record_is_one_line_of_json_with_all_that_was_given() -> None:
    record = logging.makeLogRecord({"name": "n", "levelno": 20, "levelname": "INFO", "msg": "job %s", "args": ("a\nb",), "uid": "u"})
    text = JsonFormatter().format(record)
    entry = json.loads(text)
    assert "\n" not in text
    assert (entry["message"], entry["level"], entry["uid"]) == ("job a\nb", "info", "u")


def test_an_exception_is_in_its_record() -> None:
    try:
        raise ValueError("boom")
    except ValueError as error:
        record = logging.makeLogRecord({"exc_info": (ValueError, error, error.__traceback__)})
    assert "ValueError: boom" in json.loads(JsonFormatter().format(record))["exception"]


def test_what_is_logged_while_a_run_is_worked_on_names_it_and_nothing_after() -> None:
    record = logging.makeLogRecord({"msg": "m"})
    add_subject(job="elsewhere/none")
    with speaking_of("u"):
        add_subject(job="team-a/run", attempt=2)
        inside = json.loads(JsonFormatter().format(record))
    outside = json.loads(JsonFormatter().format(record))
    assert (inside["uid"], inside["job"], inside["attempt"]) == ("u", "team-a/run", 2)
    assert not {"uid", "job", "attempt"} & outside.keys()
