"""What is wrong with a parameter, in one line that names it as its file does."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from hamjepa_audit.errors import nearest
from hamjepa_audit.params.base import Params

Location = tuple[int | str, ...]
Schema = dict[str, Any]
Place = Callable[[list[str]], list[str]]
"""From the keys of a merged tree to those of the file that they come from."""


def explain(
    model: type[Params], tree: dict[str, Any], invalid: ValidationError, place: Place = list
) -> str:
    """Key, value, and what is allowed, of the first thing that is wrong with a tree of parameters.

    An unknown key comes first: where it is misspelt, another one is missing, too.

    Args:
        model: what the tree is to be.
        tree: the parameters.
        invalid: what is wrong with them.
        place: says where a key is written, if that is not where the tree has it.
    """
    errors = invalid.errors(include_url=False)
    error = next((found for found in errors if found["type"] == "extra_forbidden"), errors[0])
    location = error["loc"]
    keys, _ = _find(model, location)
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
        case "tuple_type" | "list_type":
            return f"{path} is {error['input']!r}: write a list, [{error['input']}]"
        case _:
            said = error["msg"][:1].lower() + error["msg"][1:]
            hint = _as_number(error["input"], error["type"])
            return f"{path} is {error['input']!r}: {said}{hint}"


def _as_number(value: object, expected: str) -> str:
    """A hint at numbers that YAML takes for text, such as 5e-4."""
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
    """The keys, with the names of a list's items in the place of their numbers."""
    for key in keys:
        if isinstance(tree, list):
            tree = tree[int(key)] if key.isdecimal() and int(key) < len(tree) else None
            yield tree["name"] if isinstance(tree, dict) and "name" in tree else key
        else:
            tree = tree.get(key) if isinstance(tree, dict) else None
            yield key


def _find(model: type[Params], location: Location) -> tuple[list[str], Schema]:
    """The keys of a file that a location stands for, and the schema of what is there.

    A location also has the tags of unions (the `kind` or `source` of a mapping), which are no keys.
    """
    schema = model.model_json_schema(by_alias=False)
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
    """The schema of an item of a list, or of a key's value."""
    candidates = [
        node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part),
        node.get("additionalProperties"),
        *node.get("patternProperties", {}).values(),
    ]
    return next((found for found in candidates if isinstance(found, dict)), {})


def _resolve(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """What a reference refers to, and of what may be null, what it is otherwise."""
    while "$ref" in node or "anyOf" in node:
        if "$ref" in node:
            node = definitions[node["$ref"].rsplit("/", 1)[-1]]
        else:
            node = next((x for x in node["anyOf"] if x.get("type") != "null"), {})
    return node
