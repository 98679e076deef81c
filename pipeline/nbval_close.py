"""nbval for the committed notebooks: floats compare with a tolerance, everything else exactly.

Bits depend on the processor and the thread count, so a strict comparison would only hold on the machine that wrote the
outputs. The root's conftest.py switches it on.
"""

import math
import re
from typing import Any

FLOAT = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE][-+]?\d))(?:[eE][-+]?\d+)?")
REL, ABS = 1e-2, 1e-6


class Approximate(str):
    """Text that equals another one if the floats in it are close and all the rest is the same.

    Runs of blanks count as one: a rounded number may gain or lose a character in a padded column.
    """

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        if FLOAT.sub("#", self).split() != FLOAT.sub("#", other).split():
            return False
        pairs = zip(FLOAT.findall(self), FLOAT.findall(other), strict=True)
        return all(math.isclose(float(a), float(b), rel_tol=REL, abs_tol=ABS) for a, b in pairs)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def compare_approximately() -> None:
    """Make nbval compare sanitised text as `Approximate`."""
    from nbval.plugin import IPyNbCell

    exact = IPyNbCell.sanitize

    def sanitize(self: Any, text: Any) -> Any:
        text = exact(self, text)
        return Approximate(text) if isinstance(text, str) else text

    IPyNbCell.sanitize = sanitize
