"""The CustomResourceDefinition: the models' schema in the dialect of the API server (structural OpenAPI v3.0, with CEL)."""

from typing import Any, Final

from finetune_api.generate.immutability import add_immutability
from finetune_api.generate.kinds import ResourceKind
from finetune_api.generate.left_out import leave_out
from finetune_api.generate.merge_rules import merge_rules
from finetune_api.generate.model_schema import Schema, build_model_schema
from finetune_api.names import CATEGORIES, GROUP, VERSION
from finetune_api.rules import CEL_KEY, quote_cel

_KEPT: Final = (
    "description",
    "type",
    "format",
    "default",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
)
"""Keywords that mean the same in both dialects."""


def build_crd(kind: ResourceKind) -> dict[str, Any]:
    """Return the CustomResourceDefinition of ``kind``."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "type": column_type, "jsonPath": path, "priority": priority, "description": text}
            for name, column_type, path, priority, text in kind.columns
        ],
        "schema": {"openAPIV3Schema": merge_rules(build_openapi_schema(kind), {f"spec.{field}" for field in kind.mutable_fields})},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": [kind.short_name],
                "categories": list(CATEGORIES),
            },
            "versions": [version],
        },
    }


def build_openapi_schema(kind: ResourceKind) -> Schema:
    """Return the structural schema of ``kind``. Its spec is closed to change, its status bare of defaults.

    A default in status would show as a fact what nobody has observed. The one exception says just that: without it, kstatus (Flux) takes a
    resource that no operator has seen for one that is done.
    """
    root = build_model_schema(kind.model)
    spec = _to_structural(root["properties"]["spec"])
    leave_out(spec, kind)
    add_immutability(spec, kind)
    return {
        "description": root["description"],
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": spec,
            "status": {
                **_without_defaults(_to_structural(root["properties"]["status"])),
                "default": {"observedGeneration": -1},
                # There is one writer of it, so nobody needs to know field by field who wrote what: that was a third of a stored run.
                "x-kubernetes-map-type": "atomic",
            },
        },
        CEL_KEY: [kind.name_rule.to_schema()],
    }


def _to_structural(schema: Schema) -> Schema:
    schema, nullable = _split_null(schema)
    structural: Schema = {keyword: schema[keyword] for keyword in _KEPT if keyword in schema}
    if nullable:
        if structural.get("default", None) is None:
            structural.pop("default", None)
        else:
            structural["nullable"] = True
    choices = [part for part in schema.get("allOf", []) if "oneOf" in part]
    if choices:
        structural["allOf"] = choices
    if "const" in schema:
        structural["enum"] = [schema["const"]]
    for bound, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in schema:
            structural[limit], structural[bound] = schema[bound], True
    rules = [*_fraction_rules(structural), *schema.get(CEL_KEY, [])]
    if "properties" in schema:
        structural["properties"] = {name: _to_structural(value) for name, value in schema["properties"].items()}
    if "items" in schema:
        structural["items"] = _to_structural(schema["items"])
    if structural.get("type") == "object" and "properties" not in schema:
        structural["additionalProperties"] = _map_values(schema)
        rules = [*_key_rules(schema), *rules]
    if schema.get("x-kubernetes-int-or-string"):
        structural["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        structural.pop("type", None)
    if rules:
        structural[CEL_KEY] = rules
    return structural


def _fraction_rules(structural: Schema) -> list[dict[str, str]]:
    """Move bounds that are no whole numbers into CEL: the API server's own message would round them."""
    rules: list[dict[str, str]] = []
    for limit, sign, words in (("minimum", ">=", "greater"), ("maximum", "<=", "less")):
        if limit in structural and structural[limit] % 1:
            bound = structural.pop(limit)
            rules.append({"rule": f"self {sign} {bound}", "message": f"should be {words} than or equal to {bound}"})
    return rules


def _split_null(schema: Schema) -> tuple[Schema, bool]:
    """Take the null out of ``anyOf: [X, null]``: an absent field says the same."""
    options = schema.get("anyOf", [])
    kept = [option for option in options if option != {"type": "null"}]
    if len(kept) == len(options):
        return schema, False
    if len(kept) != 1:
        raise ValueError(f"the API server knows no choice of types: {schema}")
    return {**kept[0], **{keyword: value for keyword, value in schema.items() if keyword != "anyOf"}}, True


def _map_values(schema: Schema) -> Schema:
    values = [*schema.get("patternProperties", {}).values()]
    if isinstance(schema.get("additionalProperties"), dict):
        values.append(schema["additionalProperties"])
    if len(values) != 1:
        raise ValueError(f"the API server knows only maps with one type of value: {schema}")
    return _to_structural(values[0])


def _key_rules(schema: Schema) -> list[dict[str, str]]:
    """Say in CEL what OpenAPI v3.0 can't say of a map's keys."""
    names = schema.get("propertyNames", {})
    patterns = [*schema.get("patternProperties", {}), *([names["pattern"]] if "pattern" in names else [])]
    checks = [f"key.matches({quote_cel(pattern)})" for pattern in patterns]
    if "maxLength" in names:
        checks.append(f"key.size() <= {names['maxLength']}")
    if not checks:
        return []
    return [{"rule": f"self.all(key, {' && '.join(checks)})", "message": "keys must have the form [domain/]name, each part as in a label"}]


def _without_defaults(schema: Schema) -> Schema:
    # Nor with rules: what the operator has recorded was held to them where it came from, and must not be refused by a later release.
    bare = {keyword: value for keyword, value in schema.items() if keyword not in ("default", CEL_KEY)}
    if "properties" in bare:
        bare["properties"] = {name: _without_defaults(value) for name, value in bare["properties"].items()}
    if "items" in bare:
        bare["items"] = _without_defaults(bare["items"])
    return bare
