"""Ranks of names in a given order, such as that of a study's arms."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from hamjepa_audit.errors import UserError, nearest


def rank_in_order(column: "pd.Series[Any]", order: Sequence[str]) -> "pd.Series[Any]":
    """The position of each name of a column in `order`, starting at 0.

    Raises:
        UserError: a name is not in `order`.
    """
    place = {name: position for position, name in enumerate(order)}
    for name in column.unique():
        if name not in place:
            raise UserError(f"unknown {column.name} '{name}'; {nearest(name, order)}")
    return column.map(place)
