"""One line of results of ``alias-ops measure``."""

import math
from dataclasses import asdict, dataclass

__all__ = ["Row"]


@dataclass(frozen=True)
class Row:
    """A layer's results; None where nothing was measured. Times are medians, in ms."""

    layer: str
    kind: str
    output_shape: tuple[int, ...]
    am: float | None
    ms: float | None
    reference_am: float | None
    reference_ms: float | None

    @property
    def ratio(self) -> float | None:
        """How many times longer the definition takes than the measurement."""
        return self.reference_ms / self.ms if self.reference_ms and self.ms else None

    def record(self) -> dict[str, object]:
        """For a file: plain values, None also for what is not finite (JSON has no NaN)."""
        values = {**asdict(self), "output_shape": "x".join(map(str, self.output_shape)), "ratio": self.ratio}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
