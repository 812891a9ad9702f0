"""What may stand at a place of the config file, for the hint beside an error."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from msgspec import inspect


def meant(kind: type, place: Sequence[str], written: str) -> str:
    """What `written` was meant to be, or all that may stand there; "" when that is no list.

    place: keys and indexes from a `kind` down to the mapping with the key, or to the value.
    """
    known = _words(inspect.type_info(kind), place)
    near = difflib.get_close_matches(written, known, 1)
    if near:
        return f"did you mean {near[0]}?"
    return f"known: {', '.join(known)}" if known else ""


def _words(info: inspect.Type, place: Sequence[str]) -> list[str]:
    if isinstance(info, inspect.Metadata):
        return _words(info.type, place)
    if isinstance(info, inspect.UnionType):
        return [word for one in info.types for word in _words(one, place)]
    if isinstance(info, inspect.StructType):
        if place:
            return [
                word
                for field in info.fields
                if field.encode_name == place[0]
                for word in _words(field.type, place[1:])
            ]
        return [f.encode_name for f in info.fields if f.encode_name != "source"]
    if isinstance(info, inspect.DictType):  # msgspec does not tell under which key
        return _words(info.value_type, place)
    if isinstance(info, inspect.VarTupleType):
        return _words(info.item_type, place[1:])
    if isinstance(info, inspect.LiteralType):
        return [str(value) for value in info.values]
    if isinstance(info, inspect.EnumType):
        return [str(member.value) for member in info.cls]
    return []
