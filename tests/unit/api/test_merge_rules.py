"""Rules made into one: what is read, and how often. That the one says what the many said is held against a real API server elsewhere."""

from typing import Any

import pytest

from finetune_api.generate.crd import build_openapi_schema
from finetune_api.generate.kinds import KINDS, ResourceKind
from finetune_api.generate.merge_rules import merge_rules, render, share_lookups
from finetune_api.rules import CEL_KEY

TEXT = {"type": "string"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["kind"],
    "properties": {
        "kind": TEXT,
        "plain": {**TEXT, "default": "a"},
        "maybe": TEXT,
        "outer": {"type": "object", "default": {}, "properties": {"inner": {**TEXT, "default": "b"}, "absent": TEXT}},
        "section": {
            "type": "object",
            "properties": {
                "word": {**TEXT, "default": "it's"},
                "share": {"type": "number", "default": 1},
                "count": {"type": "integer", "default": 4},
                "wanted": {"type": "boolean", "default": False},
                "list": {"type": "array", "default": [], "items": TEXT},
                "absent": TEXT,
                "part": {"type": "object", "properties": {"depth": {"type": "integer", "default": 2}}},
            },
        },
    },
}

SHARED = {
    "read once": (["self.kind == 'a'"], "(self.kind == 'a')"),
    "read twice": (["self.kind != 'a'", "self.kind != 'b'"], "[self.kind].all(_kind, (_kind != 'a') && (_kind != 'b'))"),
    "may be absent": (["self.maybe == 'a'", "self.maybe == 'b'"], "(self.maybe == 'a') && (self.maybe == 'b')"),
    "asked for twice": (["!has(self.maybe)", "!has(self.maybe)"], "[has(self.maybe)].all(_has_maybe, (!_has_maybe) && (!_has_maybe))"),
    "read twice, but perhaps not": (
        ["true || self.kind == 'a'", "false && self.kind == 'b'"],
        "(true || self.kind == 'a') && (false && self.kind == 'b')",
    ),
    "two fields of one object": (
        ["self.outer.inner == 'a'", "!has(self.outer.absent)"],
        "[self.outer].all(_outer, (_outer.inner == 'a') && (!has(_outer.absent)))",
    ),
    "a field of an object, twice": (
        ["self.outer.inner == 'a'", "self.outer.inner != 'b'"],
        "[self.outer.inner].all(_outer_inner, (_outer_inner == 'a') && (_outer_inner != 'b'))",
    ),
    "a method": (["self.kind.size() > 1", "self.kind.matches('x')"], "[self.kind].all(_kind, (_kind.size() > 1) && (_kind.matches('x')))"),
    "a name in a text": (
        ["self.kind != 'self.plain'", "self.plain != 'a\\'self.kind'"],
        "(self.kind != 'self.plain') && (self.plain != 'a\\'self.kind')",
    ),
    "the value itself": (["self.size() > 1", "self != ''"], "(self.size() > 1) && (self != '')"),
    "a section that may be left out": (
        ["self.section.word == 'a'", "self.section.count > 1"],
        "[self.?section].all(_section, (_section.?word.orValue('it\\'s') == 'a') && (_section.?count.orValue(4) > 1))",
    ),
    "a field of a section that may be left out, twice": (
        ["self.section.word == 'a'", "self.section.word != 'b'"],
        "[self.?section.?word.orValue('it\\'s')].all(_section_word, (_section_word == 'a') && (_section_word != 'b'))",
    ),
    "a section within one that may be left out": (
        ["self.section.part.depth > 1", "self.section.part.depth < 9", "self.section.wanted"],
        "[self.?section].all(_section, [_section.?part.?depth.orValue(2)].all(_section_part_depth, "
        "(_section_part_depth > 1) && (_section_part_depth < 9) && (_section.?wanted.orValue(false))))",
    ),
}


@pytest.mark.parametrize("case", SHARED)
def test_what_is_surely_read_more_than_once_is_read_once(case: str) -> None:
    rules, shared = SHARED[case]
    assert share_lookups(rules, SCHEMA) == shared


LEFT_OUT = {
    "a text": ("self.section.word == 'a'", "self.?section.?word.orValue('it\\'s') == 'a'"),
    "a fraction": ("self.section.share < 2.0", "self.?section.?share.orValue(1.0) < 2.0"),
    "a list": ("self.section.list.size() == 0", "self.?section.?list.orValue([]).size() == 0"),
    "what may be absent, asked for": ("!has(self.section.absent)", "!self.?section.?absent.hasValue()"),
    "what may be absent, read": ("self.section.absent == 'a'", "self.?section.?absent.value() == 'a'"),
    "a section, asked for": ("has(self.section)", "has(self.section)"),
    "a section in a section, asked for": ("has(self.section.part)", "self.?section.?part.hasValue()"),
    "what is always there": ("self.outer.inner == 'a'", "self.outer.inner == 'a'"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_is_left_out_is_read_as_its_default(case: str) -> None:
    rule, stored = LEFT_OUT[case]
    assert render(rule, SCHEMA) == stored
    (merged,) = merge_rules({**SCHEMA, CEL_KEY: [{"rule": rule, "message": "is wrong"}]}, set(), ".spec")[CEL_KEY]
    assert merged["rule"] == f"oldSelf.hasValue() || ({stored})"


def test_the_message_names_each_field_whose_rule_is_broken() -> None:
    rules = [
        {"rule": "self.kind != 'a'", "message": "must not be a", "fieldPath": ".kind"},
        {"rule": "self.plain != ''", "message": "it's bare"},
    ]
    (merged,) = merge_rules({**SCHEMA, CEL_KEY: rules}, set(), ".spec")[CEL_KEY]
    assert merged["messageExpression"] == (
        "(self.kind != 'a' ? '' : 'spec.kind: must not be a. ') + (self.plain != '' ? '' : 'it\\'s bare. ')"
    )


READS = {
    "another field": ("self.kind == 'a'", False),
    "a field below another": ("self.outer.absent == 'a'", False),
    "a name in a text": ("self.kind == 'self.plain'", False),
    "the field": ("self.kind == 'a' || self.plain == 'a'", True),
    "a method of the field": ("self.plain.size() > 1", True),
    "whether the field is there": ("!has(self.plain)", True),
    "what the field lies in": ("self.outer == self.outer", True),
    "what lies in the field": ("self.plain.below == 'a'", True),
    "the whole value": ("self.all(name, name != 'a')", True),
    "the whole value, by no method": ("self != 'a'", True),
}


@pytest.mark.parametrize("case", READS)
def test_only_what_may_change_is_asked_about_at_every_write(case: str) -> None:
    rule, moving = READS[case]
    (merged,) = merge_rules({**SCHEMA, CEL_KEY: [{"rule": rule, "message": "is wrong"}]}, {"spec.plain", "spec.outer.inner"}, ".spec")[
        CEL_KEY
    ]
    once = {"rule": f"oldSelf.hasValue() || ({rule})", "optionalOldSelf": True}
    assert merged == {"message": "is wrong", **({"rule": rule} if moving else once)}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_a_value_has_one_rule_and_its_transition_rules(kind: ResourceKind) -> None:
    """None of today's rules reads a field that may change."""

    def walk(before: dict[str, Any], after: dict[str, Any]) -> None:
        old, new = before.get(CEL_KEY, []), after.get(CEL_KEY, [])
        moving = [rule for rule in old if "oldSelf" in rule["rule"]]
        assert new[len(new) - len(moving) :] == moving
        assert len(new) - len(moving) == min(1, len(old) - len(moving))
        assert all(rule["optionalOldSelf"] for rule in new[: len(new) - len(moving)])
        for name, below in before.get("properties", {}).items():
            walk(below, after["properties"][name])

    schema = build_openapi_schema(kind)
    walk(schema, merge_rules(schema, {f"spec.{field}" for field in kind.mutable_fields}))
