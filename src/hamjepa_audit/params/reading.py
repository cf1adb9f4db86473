"""Reads parameter files: YAML with one mapping, in which no key occurs twice."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from hamjepa_audit.errors import UserError

Tree: TypeAlias = dict[str, Any]


class UniqueKeyLoader(yaml.SafeLoader):
    """A YAML loader that refuses duplicate keys, of which the plain loader keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Constructs one mapping, after checking its keys."""
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # the base class refuses it
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, loader: type[UniqueKeyLoader] = UniqueKeyLoader) -> Tree:
    """Reads a YAML file that contains one mapping; the loader determines how scalars are read.

    Raises:
        UserError: the file is missing, can't be read, is not YAML, has a duplicate key, or is not
            a mapping.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except FileNotFoundError as error:
        raise UserError(f"missing parameter file {path}; create it or correct its name") from error
    except OSError as error:
        raise UserError(
            f"can't read {path}: {error.strerror}; check its permissions and the disk"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).replace('in "<unicode string>", ', "in ").split())
        raise UserError(f"{path} is not valid YAML: {said}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold a mapping of keys to values, found {tree!r}")
    return tree
