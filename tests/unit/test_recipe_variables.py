"""Variables of diskimage-builder that a shell or a loader would interpret."""

from __future__ import annotations

from pathlib import Path

import pytest

from imageflow.errors import RecipeError
from tests.unit.test_recipe import load


@pytest.mark.parametrize(
    "variable",
    [
        "BASH_ENV",
        "ENV",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PERL5OPT",
        "PERL5LIB",
        "IFS",
        "PS4",
        "SHELLOPTS",
        "BASHOPTS",
        "GIT_SSH_COMMAND",
        "GIT_CONFIG_GLOBAL",
        "PATH",
        "PROMPT_COMMAND",
        "RUBYOPT",
        "NODE_OPTIONS",
        "APT_CONFIG",
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        "HOME",
        "SUDO_ASKPASS",
        "IMAGEFLOW_USERINFO",
        "CURL_HOME",
    ],
)
def test_variables_that_a_shell_or_a_loader_interprets_are_refused(variable: str, tmp_path: Path) -> None:
    for value in ("/tmp/x", "{secret: x}"):
        with pytest.raises(RecipeError, match=f"environment.{variable}: is not a setting of diskimage-builder"):
            load(
                tmp_path,
                f"images: [{{name: a, method: dib, dib: {{elements: [vm], environment: {{{variable}: {value}}}}}}}]",
            )


def test_variables_that_sound_alike_are_not(tmp_path: Path) -> None:
    text = "DIB_PYTHON_VERSION: '3', PYTHON_VERSION: '3', ENVIRONMENT: x, PERLITE: x, DIB_GIT_REF: x, ELEMENTS_PATH: '', TMP_DIR: x"
    load(tmp_path, f"images: [{{name: a, method: dib, dib: {{elements: [vm], environment: {{{text}}}}}}}]")
