"""Turns a validation error of parameters into one line that names the key as in its file."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from hamjepa_audit.errors import nearest
from hamjepa_audit.params.base import Params

Location = tuple[int | str, ...]
Schema = dict[str, Any]
Place = Callable[[list[str]], list[str]]
"""Maps the keys of a value in the merged tree to the keys in the file that it comes from."""


def explain(
    model: type[Params], tree: dict[str, Any], invalid: ValidationError, place: Place = list
) -> str:
    """Describes the first error in a tree of parameters: the key, its value, and what is allowed.

    Unknown keys come first, because a misspelt key also makes the intended key missing.

    Args:
        model: the parameter model that the tree should match.
        tree: the parameters.
        invalid: the errors found in them.
        place: maps keys of the tree to those of the file that they are written in.
    """
    errors = invalid.errors(include_url=False)
    error = next((found for found in errors if found["type"] == "extra_forbidden"), errors[0])
    location = error["loc"]
    keys, _ = _find(model, location)
    if error["type"] == "union_tag_invalid":
        keys.append(error["ctx"]["discriminator"].strip("'"))
    path = ".".join(place(list(_named(tree, keys)))) or "parameters"
    match error["type"]:
        case "extra_forbidden":
            _, parent = _find(model, location[:-1])
            allowed = sorted(parent.get("properties", {}))
            return f"unknown key '{path}': {nearest(str(location[-1]), allowed)}"
        case "missing":
            return f"key '{path}' is missing: give it a value"
        case "value_error":
            return f"{path}: {error['ctx']['error']}"
        case "too_short":
            return f"{path} is empty: give at least {error['ctx']['min_length']}"
        case "union_tag_invalid":
            allowed = error["ctx"]["expected_tags"].replace("'", "").split(", ")
            tag = error["ctx"]["tag"]
            return f"{path} is '{tag}': {nearest(tag, allowed)}"
        case "tuple_type" | "list_type":
            return f"{path} is {error['input']!r}: write a list, [{error['input']}]"
        case _:
            said = error["msg"][:1].lower() + error["msg"][1:]
            hint = _as_number(error["input"], error["type"])
            return f"{path} is {error['input']!r}: {said}{hint}"


def _as_number(value: object, expected: str) -> str:
    """A hint for numbers that YAML reads as text, such as 5e-4; otherwise empty."""
    if not isinstance(value, str) or expected not in ("int_type", "float_type"):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if not math.isfinite(number) or (expected == "int_type" and not number.is_integer()):
        return ""
    return f"; write it as {int(number) if number.is_integer() else number}"


def _named(tree: Any, keys: list[str]) -> Iterator[str]:
    """Yields the keys, with the indices of list items replaced by the items' names."""
    for key in keys:
        if isinstance(tree, list):
            tree = tree[int(key)] if key.isdecimal() and int(key) < len(tree) else None
            yield tree["name"] if isinstance(tree, dict) and "name" in tree else key
        else:
            tree = tree.get(key) if isinstance(tree, dict) else None
            yield key


def _find(model: type[Params], location: Location) -> tuple[list[str], Schema]:
    """The keys in a file for a location in pydantic's sense, and the schema at that location.

    A location also contains the tags of unions (the `kind` or `source` of a mapping), which are not
    keys.
    """
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    keys, node = [], schema
    for part in location:
        tags = node.get("discriminator", {}).get("mapping", {})
        if part in tags:
            node = {"$ref": tags[part]}
        else:
            keys.append(str(part))
            node = _child(node, part)
        node = _resolve(node, definitions)
    return keys, node


def _child(node: Schema, part: int | str) -> Schema:
    """The schema of a list item or of a key's value."""
    candidates = [
        node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part),
        node.get("additionalProperties"),
        *node.get("patternProperties", {}).values(),
    ]
    return next((found for found in candidates if isinstance(found, dict)), {})


def _resolve(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """Follows references, and replaces a nullable schema by its schema other than null."""
    while "$ref" in node or "anyOf" in node:
        if "$ref" in node:
            node = definitions[node["$ref"].rsplit("/", 1)[-1]]
        else:
            node = next((x for x in node["anyOf"] if x.get("type") != "null"), {})
    return node
