"""Python packages as an sh script, for diskimage-builder's chroot and for machines."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def script(requirements: Sequence[str], package: str = "python3-pip") -> str:
    """Install with the system's own pip; if missing, the shell function `install_packages` installs `package`."""
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
