"""When a callback looks at the network."""

import re
from dataclasses import dataclass

from ngram_mlp.errors import UserError

__all__ = ["Cadence", "Due"]

PRESETS = {"default": "5000/50000/0", "often": "100/1000/10000", "each": "1/10/100"}


@dataclass(frozen=True)
class Due:
    """Which kinds of findings are due."""

    numbers: bool
    histograms: bool
    figures: bool


NOTHING = Due(numbers=False, histograms=False, figures=False)
EVERYTHING = Due(numbers=True, histograms=True, figures=True)


@dataclass(frozen=True)
class Cadence:
    """The updates between two looks at cheap numbers, at histograms (and sampled names), and at figures.

    Whatever the interval, everything is due at the last update; 0 means only there, `never` not even there.
    """

    numbers: int
    histograms: int
    figures: int
    never: bool = False

    @classmethod
    def parse(cls, text: str) -> "Cadence":
        """`off`, `default` (5000/50000/0), `often` (100/1000/10000), `each` (1/10/100), or three such numbers.

        Raises:
            UserError: anything else.
        """
        if text == "off":
            return cls(0, 0, 0, never=True)
        if re.fullmatch(r"\d+/\d+/\d+", numbers := PRESETS.get(text, text)):
            each, histograms, figures = map(int, numbers.split("/"))
            return cls(each, histograms, figures)
        raise UserError(
            f"--observe.cadence {text}: give off, {', '.join(PRESETS)}, or the updates between two looks at numbers, "
            "histograms and figures, such as 1000/10000/0 (0: only at the last update)"
        )

    @property
    def intervals(self) -> list[int]:
        """The intervals at whose multiples something is due."""
        return [interval for interval in (self.numbers, self.histograms, self.figures) if interval]

    def due(self, update: int, last: int) -> Due:
        """What is due at an update of a run with this last one."""
        return Due(
            *(
                not self.never and (update == last or bool(interval and update % interval == 0))
                for interval in (self.numbers, self.histograms, self.figures)
            )
        )
