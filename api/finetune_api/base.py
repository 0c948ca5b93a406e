"""What every model of this package has in common."""

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainSerializer, model_validator
from pydantic.alias_generators import to_camel

from finetune_api.rules import Rule, add_to_schema, check


def _show_rules(schema: dict[str, Any], model: type[BaseModel]) -> None:
    add_to_schema(getattr(model, "rules", ()), schema)


class ApiModel(BaseModel):
    """A value in camelCase JSON: frozen, closed against unknown fields, and finite in every number.

    The docstring under each field is its description in the CRD, the JSON schema and the reference.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        json_schema_extra=_show_rules,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """Rules over several fields at once."""

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        check(self.rules, self)
        return self


class StoredModel(ApiModel):
    """Like :class:`ApiModel`, for what another release may have written: fields that this one doesn't know are ignored."""

    model_config = ConfigDict(extra="ignore")


def _in_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def format_time(value: datetime) -> str:
    """Return ``value`` as Kubernetes writes a time: UTC, whole seconds, ``Z``."""
    return _in_utc(value).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


Timestamp = Annotated[
    datetime,
    AfterValidator(_in_utc),
    PlainSerializer(format_time, return_type=str, when_used="json"),
]
"""A time in UTC, in JSON as Kubernetes' ``metav1.Time``: RFC 3339 in whole seconds."""
