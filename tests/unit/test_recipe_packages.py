"""The words that package managers take for packages, and what is none of them."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from imageflow.recipe.steps import ConfigureStep, MachineStep

WORDS = [
    # apt
    "nginx", "g++", "libc6:i386", "nginx=1.22*", "nginx/bookworm-backports", "task-ssh-server^", "vim-", "linux-image-.*",
    "?name(^linux-image-[0-9])", "?and(?name(nginx),?not(?installed))", "~nnginx", "python3.1[12]",
    # dnf
    "@nodejs:20/minimal", "@^minimal-environment", "perl(Foo::Bar)", "libz.so.1()(64bit)", "pkgconfig(zlib)", "/usr/bin/vi",
    "1:bind-9.16.23-1.el9.x86_64", "php-{cli,fpm}", "kernel-devel-uname-r", "https://h/x.rpm", "glibc.i686",
    # zypper, apk
    "pattern:base", "nginx>=1.22", "so:libz.so.1", "cmd:bash", "nginx~1.24", "nginx@edge", "nginx<2", "py3-pip~=23",
]  # fmt: skip
SPACED = [
    "nginx >= 1.20",
    "kernel-devel-uname-r = 5.14.0-70.el9.x86_64",
    "@Development Tools",
    "@^Server with GUI",
    "(a or b)",
    "(perl(Foo) if perl)",
]
WRONG = [
    "", " ", "-y", "--nogpgcheck", "a b", "a, b", "a,b", "nginx ", " nginx", "a\nb", "a\x00b", "nginx >=", "@", "@ a", "./x.deb",
    "(a)", "perl(Foo", "$(id)", "`id`", "a;b", "a&b", "a'b", 'a"b', "a\\b", "a\u202eb", "@-x",
]  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_words(word: str) -> None:
    assert MachineStep.model_validate({"packages": [word]}).packages == [word]
    assert ConfigureStep.model_validate({"packages": [word]}).packages == [word]


@pytest.mark.parametrize("word", SPACED)
def test_words_with_spaces_are_for_machines(word: str) -> None:
    """diskimage-builder would split them."""
    assert MachineStep.model_validate({"packages": [word]}).packages == [word]
    with pytest.raises(ValidationError, match="is not a package name"):
        ConfigureStep.model_validate({"packages": [word]})


@pytest.mark.parametrize("word", WRONG)
@pytest.mark.parametrize("step", [MachineStep, ConfigureStep])
def test_none(step: type[ConfigureStep], word: str) -> None:
    with pytest.raises(ValidationError, match="is not a package name"):
        step.model_validate({"packages": [word]})


@pytest.mark.parametrize("word", ["(a and ", "(", "a(", "a ", "@a ", "[", "{a", "?and("])
def test_a_long_one_is_refused_at_once(word: str) -> None:
    before = time.process_time()
    with pytest.raises(ValidationError):
        MachineStep.model_validate({"packages": [word * 50_000]})
    assert time.process_time() - before < 2
