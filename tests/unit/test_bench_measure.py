"""What benchmarks measure is what they say."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from bench.measure import peak_memory

MIB = 1 << 20


def test_the_memory_of_a_command_is_its_own() -> None:
    """And not what the process that measures it once had."""
    held = b"x" * (150 * MIB)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 150 * 1024
    assert peak_memory(sys.executable, "-c", "") < 60
    del held
    assert peak_memory(sys.executable, "-c", "") < 60


def test_the_memory_of_a_command_is_all_that_it_had_at_a_time() -> None:
    assert peak_memory(sys.executable, "-c", f"x = b'x' * {100 * MIB}; print(1); del x") > 100
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', \"x = b'x' * {100 * MIB}\"])"
    assert peak_memory(sys.executable, "-c", child) > 100


def test_a_command_that_fails_is_not_measured() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        peak_memory(sys.executable, "-c", "import sys; sys.exit(3)")
