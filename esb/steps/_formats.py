"""Formats in options: `csv`, or `{csv: {delimiter: ";"}}`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, create_model, model_serializer, model_validator

from esb.codecs import FORMATS, NoOptions
from esb.options import Options, unknown


class Choice(Options):
    """One key: what is chosen, and its options. A bare name chooses without options."""

    __choices__: ClassVar[Mapping[str, type[Options]]] = {}
    __what__: ClassVar[str] = "one"

    @model_validator(mode="before")
    @classmethod
    def _one(cls, raw: Any) -> Any:
        if isinstance(raw, str):
            if raw not in cls.__choices__:
                raise unknown(cls.__what__, raw, cls.__choices__)
            raw = {raw: None}
        if not isinstance(raw, dict) or len(raw) != 1:
            raise ValueError(f"one {cls.__what__}: a name, or `name: {{options}}`")
        [(name, options)] = raw.items()
        if name in cls.__choices__ and not isinstance(options, dict):
            shorthand = cls.__choices__[name].__shorthand__
            if options is not None and not shorthand:
                raise ValueError(f"the options of {name} are a mapping")
            options = {} if options is None else {shorthand: options}
        return {name: options}

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        name, options = self.chosen
        return {name: options}

    @property
    def chosen(self) -> tuple[str, Any]:
        """The name and its options."""
        [field] = self.model_fields_set
        name = field.removesuffix("_")
        return name, NoOptions() if self.__choices__[name] is NoOptions else getattr(self, field)


def _choice(
    name: str, what: str, choices: Mapping[str, type[Options]], told: Mapping[str, str]
) -> Any:
    fields: dict[str, Any] = {}
    for key, model in choices.items():
        none = model is NoOptions
        # A field may not be called as a method of the model: `json`.
        fields[f"{key}_"] = (
            (Annotated[dict[str, Any], Field(max_length=0)] if none else model) | None,
            Field(
                None,
                alias=key,
                description=told[key],
                json_schema_extra=_or_text if model.__shorthand__ else None,
            ),
        )
    made = create_model(name, __base__=Choice, **fields)
    made.__choices__, made.__what__ = choices, what
    return made


def _summary(doc: str | None) -> str:
    return " ".join((doc or "").split("\n\n")[0].split()).partition(". ")[0].rstrip(".") + "."


def _or_text(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [{"type": "string"}, *schema["anyOf"]]


def or_name(choices: Mapping[str, type[Options]]) -> Any:
    """For the schema of a field of such a type: a bare name will do as well."""

    def extend(schema: dict[str, Any]) -> None:
        full = {key: schema.pop(key) for key in ("$ref", "anyOf", "allOf") if key in schema}
        schema["anyOf"] = [{"type": "string", "enum": list(choices)}, full]

    return extend


_STREAMS = {name: one.stream for name, one in FORMATS.items() if one.stream is not None}
READ: Mapping[str, type[Options]] = {name: one.options for name, one in FORMATS.items()}
STREAMED: Mapping[str, type[Options]] = {name: one.options for name, one in _STREAMS.items()}

if TYPE_CHECKING:
    FormatChoice = Choice
    StreamChoice = Choice
else:
    FormatChoice = _choice(
        "FormatChoice",
        "format",
        READ,
        {name: _summary(sys.modules[one.make.__module__].__doc__) for name, one in FORMATS.items()},
    )
    StreamChoice = _choice(
        "StreamChoice",
        "stream",
        STREAMED,
        {name: _summary(one.read.__doc__) for name, one in _STREAMS.items()},
    )
