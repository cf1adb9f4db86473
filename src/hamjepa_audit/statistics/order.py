"""Sorting by names in a given order, such as that of a study's arms."""

from collections.abc import Mapping, Sequence
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


def sorted_in_order(
    frame: pd.DataFrame, by: Sequence[str], orders: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Sorts by columns; the names in those of `orders` by their position there.

    Rows that are equal in all of them keep their order.

    Raises:
        UserError: a name is not in its order.
    """

    def key(column: "pd.Series[Any]") -> "pd.Series[Any]":
        order = orders.get(str(column.name))
        return column if order is None else rank_in_order(column, order)

    return frame.sort_values([*by], key=key, kind="stable").reset_index(drop=True)
