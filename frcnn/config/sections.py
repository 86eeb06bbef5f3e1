"""Section classes in the annotations of fields."""

from typing import Any, get_args

from frcnn.config.schema import Section


def sections_in(annotation: Any) -> list[type[Section]]:
    """The section classes in an annotation, including lists and unions."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    found = [section for part in get_args(annotation) for section in sections_in(part)]
    return list(dict.fromkeys(found))


def format_of(section: type[Section]) -> str | None:
    """The `format` of a data source. None for other sections."""
    return get_args(section.model_fields["format"].annotation)[0] if "format" in section.model_fields else None
