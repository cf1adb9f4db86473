"""Where names stand in an order, such as that of a study's arms."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from hamjepa_audit.errors import UserError, nearest


def rank_in_order(column: "pd.Series[Any]", order: Sequence[str]) -> "pd.Series[Any]":
    """The place of each name of a column in `order`, from 0.

    Raises:
        UserError: a name isn't in `order`.
    """
    place = {name: position for position, name in enumerate(order)}
    for name in column.unique():
        if name not in place:
            raise UserError(f"unknown {column.name} '{name}'; {nearest(name, order)}")
    return column.map(place)
