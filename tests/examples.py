"""How many examples a property gets, and how long one may take: a plugin of pytest, in place of `@settings`.

`few` is the profile of most runs, `many` that of a run of everything (IMAGEFLOW_SLICE=all); `--hypothesis-profile`
overrides it. `@examples(3)` gives a property three times the examples of the profile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

from tests.cpu import spent
from tests.slices import choice

SECONDS = 0.2  # processor seconds that an example may take; the same on a busy machine

settings.register_profile("few", max_examples=25, deadline=None)
settings.register_profile("many", max_examples=200, deadline=None)


def examples(times: float = 1, **more: Any) -> settings:
    """Run this many times the examples of the profile."""
    return settings(max_examples=round(settings.default.max_examples * times), **more)


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("hypothesis_profile", None):
        settings.load_profile("many" if choice().everything else "few")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every property is held to the limit."""
    handles = {id(found): found for item in items if (found := getattr(getattr(item, "obj", None), "hypothesis", None))}
    for handle in handles.values():
        handle.inner_test = limited(handle.inner_test)


def limited(test: Callable[..., None]) -> Callable[..., None]:
    """The same test, which fails only when it is slow each time: imports and garbage collection may make it slow once."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        took = []
        while len(took) < 3 and (not took or took[-1] > SECONDS):
            with spent() as seconds:
                test(*args, **kwargs)
            took.append(seconds())
        assert min(took) <= SECONDS, f"it took {took} s of the processor"

    return run
