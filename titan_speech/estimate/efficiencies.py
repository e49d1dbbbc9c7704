"""Parts of a device's peaks that kernels reach, as named data; assumed, or from the report of a GPU.

In: nothing, or a file that `python -m benchmarks.first_gpu` wrote (`titan-speech estimate --calibrate FILE`). Out:
`Efficiencies`. What a report does not have stays assumed, and the page says which is which.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from titan_speech.errors import EstimateError
from titan_speech.utils.json_text import is_number, read_json_file


@dataclass(frozen=True)
class Efficiencies:
    """What the parts of a pass reach; between 0 and 1 where nothing else is said."""

    products: float = 0.82
    """The largest bf16 matrix products, of the datasheet's peak; an H200 reaches 0.80 at 8,192 cubed, random values."""
    half_size: float = 330.0
    """Smallest side of a product at which half of that is reached; assumed."""
    float8_products: float = 0.72
    """Large float8 products with a scale per row, of the float8 peak; assumed."""
    attention_forward: float = 0.35
    """Flex attention, of the bf16 peak; assumed."""
    attention_backward: float = 0.28
    """The same, backward; assumed."""
    sustained: float = 0.88
    """Clocks of a long run over those of a short measurement; assumed."""
    memory: float = 0.85
    """Of the memory's bandwidth, for fused elementwise kernels; assumed."""
    eager_bytes: float = 2.6
    """Elementwise bytes without the compiler over those with it (above 1); assumed."""
    eager_logits: float = 3.0
    """The same of logits: fp32 copies of them are written and read; assumed."""
    launch_sec: float = 2e-6
    """Between two kernels, in seconds; assumed."""
    chip_bf16_flops: float = 0.0
    """FLOP/s that this chip reaches in a large product of random values; 0: not measured."""
    origin: str = "assumed"
    """Where they come from, for pages."""


DEFAULT_EFFICIENCIES = Efficiencies()
MEASURED_CHIPS = {"h200": 788e12}
"""bf16, random values, 8,192 cubed, FLOP/s; published by others, not measured here."""
_ABOVE_ONE = {"half_size": 1e4, "eager_bytes": 100.0, "eager_logits": 100.0, "chip_bf16_flops": 1e17}


def calibrated(path: Path, device: str) -> Efficiencies:
    """The efficiencies with what a report measured.

    Args:
        path: JSON with `device` and `efficiencies`.
        device: that the estimate is for; a report of another device says nothing of it.

    Raises:
        EstimateError: the file is no such report, is of another device, or has a value that cannot be.
    """
    try:
        record = read_json_file(path)
        found, measured_on = record["efficiencies"], record["device"]
        values = {str(name): value for name, value in found.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EstimateError(
            f"{path} is no report of a GPU ({type(error).__name__}: {str(error)[:200]}): expected the report.json that "
            "`python -m benchmarks.first_gpu` writes"
        ) from error
    if measured_on != device:
        raise EstimateError(
            f"{path} was measured on {ascii(measured_on)[:80]}, and the estimate is for {device}: give that --gpu"
        )
    known = {field.name for field in fields(Efficiencies)} - {"origin"}
    for name, value in values.items():
        if name not in known:
            raise EstimateError(f"{path}: {ascii(name)[:80]} is no efficiency; known are {', '.join(sorted(known))}")
        limit = _ABOVE_ONE.get(name, 1.0)
        if not is_number(value) or not 0 < value <= limit:
            raise EstimateError(
                f"{path}: {name} is {ascii(value)[:80]}, expected a number above 0 and at most {limit:g}"
            )
    origin = f"measured ({', '.join(sorted(values))}), the others assumed" if values else "assumed"
    return replace(DEFAULT_EFFICIENCIES, **values, origin=origin)
