"""Formats in options: `csv`, or `{csv: {delimiter: ";"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, create_model, model_validator

from esb.codecs import FORMATS
from esb.options import Options


class Choice(Options):
    """One key: what is chosen, and its options. A bare name chooses without options."""

    __choices__: ClassVar[Mapping[str, type[Options]]] = {}
    __what__: ClassVar[str] = "one"

    @model_validator(mode="before")
    @classmethod
    def _one(cls, raw: Any) -> Any:
        if isinstance(raw, str):
            if raw not in cls.__choices__:
                raise ValueError(
                    f"there is no {cls.__what__} '{raw}', there are: {', '.join(cls.__choices__)}"
                )
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

    @property
    def chosen(self) -> tuple[str, Any]:
        """The name and its options."""
        [field] = self.model_fields_set
        return field.removesuffix("_"), getattr(self, field)


def _choice(name: str, what: str, choices: Mapping[str, type[Options]]) -> Any:
    # A field may not be called as a method of the model: `json`.
    fields: dict[str, Any] = {
        f"{key}_": (model | None, Field(None, alias=key, description=(model.__doc__ or "").strip()))
        for key, model in choices.items()
    }
    made = create_model(name, __base__=Choice, **fields)
    made.__choices__, made.__what__ = choices, what
    return made


def or_name(choices: Mapping[str, type[Options]]) -> Any:
    """For the schema of a field of such a type: a bare name will do as well."""

    def extend(schema: dict[str, Any]) -> None:
        full = {key: schema.pop(key) for key in ("$ref", "anyOf", "allOf") if key in schema}
        schema["anyOf"] = [{"type": "string", "enum": list(choices)}, full]

    return extend


READ: Mapping[str, type[Options]] = {name: one.options for name, one in FORMATS.items()}
STREAMED: Mapping[str, type[Options]] = {
    name: one.stream.options for name, one in FORMATS.items() if one.stream is not None
}

if TYPE_CHECKING:
    FormatChoice = Choice
    StreamChoice = Choice
else:
    FormatChoice = _choice("FormatChoice", "format", READ)
    StreamChoice = _choice("StreamChoice", "stream", STREAMED)
