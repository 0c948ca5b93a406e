"""The report page and the model card: complete, self-contained, and safe against what data and models put into them."""

import math
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml

from finetune_api.drawing.charts import compute_ticks, format_number, format_rate, smooth, thin
from finetune_api.progress import DatasetCounts, Metrics
from finetune_api.trainer_config import TrainerConfig
from finetune_trainer.documents import RunFacts, build_card, build_report_page
from finetune_trainer.documents.facts import extract_series
from finetune_trainer.evaluation.results import Evaluation, Sample, TaskResult

VOID = {"meta", "line", "polyline", "circle", "br"}
ATTACK = '<script>alert("x")</script><img src=x onerror=alert(1)> & "quoted"'


def build_facts(steps: int = 200, **changes: Any) -> RunFacts:
    figures = {"learning_rate": 1e-4, "grad_norm": 0.5, "tokens_per_second": 900.0, "memory_bytes": 2**31}
    trained: list[dict[str, Any]] = [{"step": step, "loss": 2 / step, **figures} for step in range(1, steps + 1)]
    history = [{"step": 0, "eval_loss": 2.5}, *trained, {"step": steps, "eval_loss": 1.5}]
    config = {
        "job": {"namespace": "team-a", "name": "bot", "uid": "uid-1"},
        "model": {"uri": "hf://org/base"},
        "dataset": {"uri": "s3://bucket/rows.jsonl"},
        "method": {},
        "training": {},
        "output": {"uri": "s3://bucket/out", "credentialsSecret": {"name": "s3"}},
        "device": {"gpus": 1},
    }
    facts: dict[str, Any] = {
        "config": TrainerConfig.model_validate(config),
        "metrics": Metrics(loss=0.01, eval_loss=1.5, base_eval_loss=2.5, perplexity=math.exp(1.5), base_perplexity=math.exp(2.5)),
        "dataset": DatasetCounts(examples=100, eval_examples=5),
        "history": history,
        "evaluation": Evaluation(
            samples=[Sample(prompt=ATTACK, expected=ATTACK, before="\x00\x1b before", after=ATTACK)],
            tasks=[TaskResult(name="sums", examples=10, before=1, after=9)],
        ),
        "versions": {"torch": "2.15.0"},
        "device": "NVIDIA H200",
        "now": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "base_license": "apache-2.0",
        "steps": steps,
    }
    return RunFacts(**{**facts, **changes})


class Outline(HTMLParser):
    """Reads a page as strictly as XML: every element that opens closes, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


def test_the_page_has_every_curve_and_what_was_answered() -> None:
    page = Outline(build_report_page(build_facts()))
    for words in (
        "Loss",
        "Learning rate",
        "Gradient norm",
        "Throughput",
        "Memory of the process",
        "Held-out perplexity",
        "sums",
        "90.0 %",
        "torch",
    ):
        assert words in page.text, words
    assert "training.learningRate" in page.text
    assert page.text.count(ATTACK) == 3, "prompt, expected answer and answer, word for word"


def test_nothing_of_data_or_model_is_markup() -> None:
    page = build_report_page(build_facts())
    outline = Outline(page)
    assert [tag for tag, _ in outline.seen if tag in ("script", "img", "b", "iframe", "object", "link")] == []
    assert "default-src 'none'" in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", page)


def test_the_page_needs_no_network() -> None:
    page = build_report_page(build_facts())
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "url(" not in page
    assert "@import" not in page
    assert len(build_report_page(build_facts(steps=20_000)).encode()) < 400_000


def test_a_screen_reader_gets_every_chart_in_words_and_as_a_table() -> None:
    page = Outline(build_report_page(build_facts()))
    pictures = page.all("svg")
    assert len(pictures) == 5
    ids = {attributes["id"] for _, attributes in page.seen if attributes.get("id")}
    for picture in pictures:
        assert picture["role"] == "img"
        assert set(str(picture["aria-labelledby"]).split()) <= ids
    assert len(page.all("details")) == 5
    assert "0.5 at step 1, 0.5 at step 200, lowest 0.5, highest 0.5." in page.text
    assert page.all("html") == [{"lang": "en"}]
    assert all(cell.get("scope") for cell in page.all("th"))
    assert all(box.get("tabindex") == "0" for _, box in page.seen if "scroll" in str(box.get("class")).split())


def test_light_and_dark_have_readable_contrast() -> None:
    style = build_report_page(build_facts())
    light, dark = re.findall(r":root\{(?:color-scheme:light dark;)?(--page[^}]*)\}", style)
    for block in (light, dark):
        colours = dict(re.findall(r"--([a-z]+):(#[0-9a-f]{3,6})", block))
        for name in ("text", "muted", "a", "b", "good", "bad"):
            for ground in ("card", "page"):
                assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def _contrast(one: str, other: str) -> float:
    """Contrast of two colours by WCAG 2."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_run_without_figures_has_a_page() -> None:
    page = Outline(build_report_page(build_facts(history=[], evaluation=Evaluation(), metrics=Metrics())))
    assert page.text.count("Nothing was recorded") == 5


def test_the_card_s_head_is_what_hubs_read() -> None:
    card = build_card(build_facts())
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "base_model": "org/base",
        "base_model_relation": "adapter",
        "license": "apache-2.0",
        "library_name": "peft",
        "tags": ["lora", "sft", "finetune-operator"],
    }
    for words in ("rows.jsonl", "LoRA, r 16", "nf4", "| 200 | 0.0100 |", "| sums | 10.0 % | 90.0 % | 10 |", "torch 2.15.0", "apache-2.0"):
        assert words in body


def test_a_card_without_a_licence_says_so() -> None:
    assert "name no licence" in build_card(build_facts(base_license=None))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.93, 2.41), (-3, 7), (5, 5), (0, 0), (1e-9, 2e-4), (0, 17_800_000_000), (-1e6, 1e6)])
def test_ticks_are_round_and_enclose_the_values(low: float, high: float) -> None:
    ticks = compute_ticks(low, high, 5)
    assert 2 <= len(ticks) <= 12
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12
    assert len({format_number(tick) for tick in ticks}) == len(ticks)


def test_thinning_keeps_ends_and_spikes() -> None:
    points = [(float(step), 1.0) for step in range(10_000)]
    points[5_001] = (5_001.0, 99.0)
    thinned = thin(points, 400)
    assert len(thinned) <= 402
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])
    assert (5_001.0, 99.0) in thinned
    assert thinned == sorted(thinned)


def test_smoothing_of_a_constant_is_the_constant() -> None:
    assert [value for _, value in smooth([(1, 3.0), (2, 3.0), (3, 3.0)])] == pytest.approx([3.0] * 3)


def test_numbers_that_are_not_finite_are_left_out() -> None:
    history = [{"step": 1, "loss": math.nan}, {"step": 2, "loss": math.inf}, {"step": 3, "loss": 1}, {"step": 3, "loss": 2}, {"loss": 3}]
    assert extract_series(history, "loss") == [(3.0, 2.0)]


def test_a_learning_rate_is_written_as_people_write_it() -> None:
    assert [format_rate(value) for value in (0, 1e-3, 2e-4, 3 * 5e-5, 5e-5)] == ["0", "1e-3", "2e-4", "1.5e-4", "5e-5"]
