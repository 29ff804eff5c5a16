"""Not-a-number stops a run before it reaches the weights."""

from __future__ import annotations

import math

import pytest

from virft.errors import RunError
from virft.training.guards import require_finite


def test_a_finite_number_passes() -> None:
    assert require_finite("loss", -0.5, 3) == -0.5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stops_the_run_with_its_step_and_name(value: float) -> None:
    with pytest.raises(RunError, match=rf"step 3: gradient norm is {value}; .* with a smaller learning rate"):
        require_finite("gradient norm", value, 3)
