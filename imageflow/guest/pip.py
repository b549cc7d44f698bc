"""Python packages as a script of sh: in diskimage-builder's chroot and in a machine alike."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def script(requirements: Sequence[str], package: str = "python3-pip") -> str:
    """Install with the system's own pip; `install_packages` must be a function, and installs `package` if there is none."""
    return f"""\
if ! python3 -m pip --version >/dev/null 2>&1; then
    install_packages {shlex.quote(package)}
fi
help=$(python3 -m pip install --help)
set -- -- {shlex.join(requirements)}
for option in --root-user-action=ignore --break-system-packages; do
    case $help in *"${{option%%=*}}"*) set -- "$option" "$@" ;; esac
done
python3 -m pip install --no-cache-dir --no-input "$@"
"""
