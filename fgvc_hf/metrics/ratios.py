"""Ratios of counts and their means, where some are undefined."""

import numpy as np


def divide(numerator, denominator) -> np.ndarray:
    """The quotient of numbers or arrays, NaN where the denominator is zero."""
    return numerator / np.where(np.asarray(denominator) == 0, np.nan, denominator)


def mean_of_known(rows) -> np.ndarray:
    """Mean over the rows that are not NaN; unlike `numpy.nanmean`, without a warning where there are none."""
    return divide(np.nansum(rows, axis=0), np.isfinite(rows).sum(axis=0))


__all__ = ["divide", "mean_of_known"]
