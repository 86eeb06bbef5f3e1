"""Types shared by all sections of a config."""

from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

T = TypeVar("T")
Fraction = Annotated[float, Field(ge=0, le=1)]
PEER = "x-peer"
"""Keyword of the JSON Schema that marks keys of type `Peer`."""
Peer = Annotated[T, Field(json_schema_extra={PEER: True})]
"""Type of a key that only reproduces the numbers, or reads the weights, of another implementation. New training runs
keep its default. The reference lists these keys in a section of their own."""


def is_peer(field: FieldInfo) -> bool:
    """Whether a field has the type `Peer`."""
    return isinstance(field.json_schema_extra, dict) and PEER in field.json_schema_extra


class Section(BaseModel):
    """A mapping of a config. Keys are fields; the string below a field describes it."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=False,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_bool_as_number(cls, values: Any) -> Any:
        """Raise ValueError for a boolean in a numeric field, which pydantic would convert to 0 or 1."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            kinds = () if field is None else (field.annotation, *get_args(field.annotation))
            if isinstance(value, bool) and field is not None and bool not in kinds:
                raise ValueError(f"{name} cannot be {str(value).lower()}")
        return values
