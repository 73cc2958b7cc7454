"""Every reader and parser returns or refuses, whatever it is given: a few inputs of each; ``make fuzz`` tries more."""

import tempfile
import time
from pathlib import Path

import pytest
from fuzz import inputs
from hypothesis import HealthCheck, given, settings

TARGETS = inputs.targets()


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_are_read_or_refused(name):
    target = TARGETS[name]
    times = []

    @settings(
        max_examples=30, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.inputs)
    def run(value):
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            inputs.outcome(target, value, Path(folder))
            times.append(time.process_time() - start)

    run()
    assert max(times) < 5
