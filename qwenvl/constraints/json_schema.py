"""A user's JSON Schema: checked once, bounded in all it may ask for, and applied to answers in bounded time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import Draft202012Validator, extend, validator_for
from referencing import Registry

from qwenvl.constraints.schema_patterns import PatternTimeoutError, check_pattern, looks_around, matches
from qwenvl.errors import RequestError

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

DEEPEST = 64
"""Levels of nesting that a schema may have."""
LARGEST = 256 * 1024
"""Characters of JSON that a schema may have."""
LIMIT = "limit"
"""Stands for the keyword in errors of `SchemaValidator` that are not about the value but about a limit."""
UNHELD = frozenset(
    (
        "not",
        "if",
        "then",
        "else",
        "dependentSchemas",
        "dependentRequired",
        "contains",
        "propertyNames",
        "multipleOf",
        "uniqueItems",
        "unevaluatedProperties",
        "unevaluatedItems",
        "patternProperties",
        "$dynamicRef",
    )
)
"""Keywords that the grammar takes and does not keep to (measured with xgrammar 0.2)."""

_STEPS = 50_000  # keywords looked at for one answer
_IN_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_IN_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_ALONE = (
    "not",
    "if",
    "then",
    "else",
    "items",
    "additionalItems",
    "additionalProperties",
    "contains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_SAME_VALUE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class _StepsError(Exception):
    """Too many keywords were looked at for one answer."""


def read_schema(path: Path) -> dict[str, object]:
    """Read and check a schema from a JSON file.

    Raises
    ------
    RequestError
        The file is not JSON, or the schema is refused (`check_schema`).
    """
    try:
        if path.stat().st_size > 4 * LARGEST:
            raise RequestError(f"{path}: a schema has at most {LARGEST} characters")
        schema = json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise RequestError(f"{path}: nested more than {DEEPEST} deep") from None
    except ValueError as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{path} is not JSON: {error}") from None
    try:
        check_schema(schema)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    found: dict[str, Any] = schema
    return found


def check_schema(schema: Mapping[str, object]) -> None:
    """Refuse a schema that is none, is out of bounds, or leads out of its document.

    Raises
    ------
    RequestError
        It is no JSON Schema; it has more than 64 levels or 256 Ki characters, a number or text that JSON cannot carry,
        a pattern that cannot be bounded, a reference to another document or to nothing, or references in a circle.
    """
    if not isinstance(schema, dict):
        raise RequestError("the schema is no JSON object; write one such as {'type': 'object', ...}")
    _check_plain(schema, 0)
    try:
        text = json.dumps(schema, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise RequestError(f"the schema is no JSON: {error}") from None
    if len(text) > LARGEST:
        raise RequestError(f"the schema has {len(text)} characters; use at most {LARGEST}")
    dialect = schema.get("$schema")
    if not isinstance(dialect, str | None) or (dialect and validator_for(schema, default=None) is None):
        raise RequestError(f"$schema {str(dialect)[:80]!r} is no version of JSON Schema; leave it out")
    try:
        # Patterns are checked below: by what matches them here, not by Python's own engine.
        _dialect(schema).check_schema(schema, format_checker=None)
    except SchemaError as error:
        raise RequestError(f"not a valid JSON Schema: {error.message[:300]}") from None
    parts = list(_parts(schema))
    keywords = {key for part in parts for key in part}
    if "patternProperties" in keywords and "unevaluatedProperties" in keywords:
        raise RequestError("the schema has patternProperties and unevaluatedProperties; use only one of them")
    if any("$id" in part or "id" in part for part in parts if part is not schema):
        raise RequestError("only the whole schema may have an $id, no part of it")
    for part in parts:
        for pattern in _patterns(part):
            check_pattern(pattern)
    _check_references(schema, parts)


def unheld(schema: Mapping[str, object]) -> tuple[str, ...]:
    """What the grammar of answers leaves to the check afterwards: keywords, and 'lookaround' of patterns."""
    found = {key for part in _parts(schema) for key in part if key in UNHELD and part[key] is not False}
    looking = any(looks_around(pattern) for part in _parts(schema) for pattern in _patterns(part))
    return (*sorted(found), *(["lookaround"] if looking else []))


def unheld_note(schema: Mapping[str, object]) -> tuple[str, ...]:
    """The note of an answer whose grammar leaves something of its schema to the check afterwards, if it does."""
    found = unheld(schema)
    return (f"unheld:{','.join(found)}",) if found else ()


class SchemaValidator:
    """Applies a schema to values in bounded time; nothing outside its document is read.

    Parameters
    ----------
    schema : Mapping
    """

    def __init__(self, schema: Mapping[str, object]) -> None:
        plain = dict(schema)
        self._validator = _bounded(_dialect(plain))(plain, registry=Registry())

    def iter_errors(self, value: object) -> Iterator[ValidationError]:
        """What is wrong with a value.

        Where the schema cannot be applied within its limits, that is an error as well, of the keyword `LIMIT`.
        """
        token = _left.set([_STEPS])
        try:
            found = list(self._validator.iter_errors(value))
        except (PatternTimeoutError, _StepsError) as error:
            found = [_beyond(str(error))]
        except RecursionError:
            found = [_beyond("value and schema together are nested too deep")]
        except ArithmeticError as error:
            found = [_beyond(f"a number is out of all measure ({error})")]
        finally:
            _left.reset(token)
        yield from found

    def is_valid(self, value: object) -> bool:
        """True where nothing is wrong with a value."""
        return next(self.iter_errors(value), None) is None


def _beyond(reason: str) -> ValidationError:
    return ValidationError(f"the schema cannot be applied: {reason}", validator=LIMIT)


_left: ContextVar[list[int]] = ContextVar("qwenvl_schema_steps")


def _dialect(schema: Mapping[str, object]) -> Any:
    return validator_for(schema, default=Draft202012Validator)


@lru_cache(maxsize=8)
def _bounded(dialect: type[Validator]) -> type[Validator]:
    ours = {"pattern": _pattern, "patternProperties": _pattern_properties, "uniqueItems": _unique}
    if "additionalProperties" in dialect.VALIDATORS:
        ours["additionalProperties"] = _additional
    keywords = {key: _counted(ours.get(key, check)) for key, check in dialect.VALIDATORS.items()}
    return extend(dialect, keywords)


def _counted(check: Callable[..., Iterator[ValidationError] | None]) -> object:
    def counted(
        validator: Validator, asked: object, value: object, schema: Mapping[str, object]
    ) -> Iterator[ValidationError]:
        left = _left.get()
        left[0] -= 1
        if left[0] < 0:
            raise _StepsError(f"more than {_STEPS} steps for one answer; use fewer alternatives")
        yield from check(validator, asked, value, schema) or ()

    return counted


def _pattern(validator: Validator, asked: str, value: Any, schema: Mapping[str, object]) -> Iterator[ValidationError]:
    if validator.is_type(value, "string") and not matches(asked, value):
        yield ValidationError(f"{value[:200]!r} does not match {asked!r}")


def _pattern_properties(
    validator: Validator, asked: Any, value: Any, schema: Mapping[str, object]
) -> Iterator[ValidationError]:
    if validator.is_type(value, "object"):
        for pattern, part in asked.items():
            for key, each in value.items():
                if matches(pattern, key):
                    yield from validator.descend(each, part, path=key, schema_path=pattern)


def _additional(validator: Validator, asked: object, value: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(value, "object"):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    others = [key for key in value if key not in known and not any(matches(p, key) for p in patterns)]
    if asked is False and others:
        names = ", ".join(repr(key[:80]) for key in others[:5])
        yield ValidationError(f"Additional properties are not allowed ({names})")
    elif isinstance(asked, dict):
        for key in others:
            yield from validator.descend(value[key], asked, path=key)


def _unique(validator: Validator, asked: object, value: Any, schema: Mapping[str, object]) -> Iterator[ValidationError]:
    if asked and validator.is_type(value, "array") and len({_key(each) for each in value}) < len(value):
        yield ValidationError("it has non-unique elements")


def _key(value: object) -> tuple[object, object]:
    """Equal for values that JSON Schema takes as equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return "object", frozenset((key, _key(each)) for key, each in value.items())
    if isinstance(value, list):
        return "array", tuple(map(_key, value))
    return isinstance(value, bool), value


def _check_plain(value: object, depth: int) -> None:
    """Refuse what no JSON can carry, and what is nested too deep."""
    if depth > DEEPEST * 2:  # a level of a schema is two of its JSON: the keyword, and the schema in it
        raise RequestError(f"the schema is nested more than {DEEPEST} deep; take levels out")
    if isinstance(value, dict | list):
        names = value if isinstance(value, dict) else ()
        for each in (*names, *(value.values() if isinstance(value, dict) else value)):
            _check_plain(each, depth + 1)
    elif isinstance(value, str):
        if any("\ud800" <= sign <= "\udfff" for sign in value):
            raise RequestError(f"the schema holds half a character (a lone surrogate): {value[:60]!a}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise RequestError(f"the schema holds {value}, which JSON has not; leave it out")
    elif isinstance(value, int):
        if value.bit_length() > 1023:
            raise RequestError("the schema holds a number of more than 308 digits; use a smaller one")
    elif value is not None:
        raise RequestError(f"the schema holds a {type(value).__name__}, which is no JSON")


def _inner(part: Mapping[str, object], keys: tuple[str, ...] | None = None) -> Iterator[dict[str, object]]:
    """The schemas right within a schema; names of properties and values of enums are none."""
    for key, value in part.items():
        if keys is not None and key not in keys:
            continue
        if key in _IN_MAPS and isinstance(value, dict):
            found = list(value.values())
        elif (key in _IN_LISTS or key == "items") and isinstance(value, list):
            found = value
        elif key in _ALONE:
            found = [value]
        elif key == "dependencies" and isinstance(value, dict):
            found = list(value.values())
        else:
            continue
        yield from (each for each in found if isinstance(each, dict))


def _parts(schema: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """A schema and all schemas within it."""
    yield schema
    for each in _inner(schema):
        yield from _parts(each)


def _patterns(part: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(part.get("pattern"), str):
        yield part["pattern"]
    if isinstance(part.get("patternProperties"), dict):
        yield from part["patternProperties"]


def _check_references(schema: Mapping[str, object], parts: list[Mapping[str, object]]) -> None:
    """Refuse references that leave the document or lead nowhere, and circles in which no value gets smaller."""
    known = {id(part) for part in parts}
    onward: dict[int, list[Mapping[str, object]]] = {}
    for part in parts:
        targets = [_target(schema, part[key], known) for key in _REFERENCES if key in part]
        onward[id(part)] = [*_inner(part, _SAME_VALUE), *(each for each in targets if each is not None)]
    done: set[int] = set()
    for part in parts:
        path: list[tuple[int, Iterator[Mapping[str, Any]]]] = []
        _enter(part, path, onward, done)
        while path:
            following = next(path[-1][1], None)
            if following is None:
                done.add(path.pop()[0])
            elif any(id(following) == each for each, _ in path):
                raise RequestError("references of the schema go in a circle; let each lead into a property or item")
            else:
                _enter(following, path, onward, done)


def _enter(part: Mapping[str, Any], path: list[Any], onward: Mapping[int, list[Any]], done: set[int]) -> None:
    if id(part) not in done:
        path.append((id(part), iter(onward[id(part)])))


def _target(schema: Mapping[str, object], reference: object, known: set[int]) -> Mapping[str, object] | None:
    """The schema that a reference names; None for true and false."""
    shown = repr(str(reference)[:80])
    if not isinstance(reference, str) or (reference != "#" and not reference.startswith("#/")):
        raise RequestError(
            f"the schema refers to {shown}; only '#' and '#/$defs/...' within the same document can be followed"
        )
    found: Any = schema
    for name in reference.split("/")[1:]:
        name = _unquoted(name)
        if isinstance(found, list) and name.isascii() and name.isdigit() and int(name[:9]) < len(found):
            found = found[int(name[:9])]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            raise RequestError(f"the schema refers to {shown}, which is not in it")
    if isinstance(found, bool):
        return None
    if id(found) not in known:
        raise RequestError(f"the schema refers to {shown}, which is no schema; put it under $defs")
    target: Mapping[str, Any] = found
    return target


def _unquoted(name: str) -> str:
    from urllib.parse import unquote

    return unquote(name).replace("~1", "/").replace("~0", "~")
