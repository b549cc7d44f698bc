"""Accounts as an sh script, for diskimage-builder's chroot and for machines, with shadow's tools or busybox's."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from imageflow.model import Json

_PASSWORD = "IMAGEFLOW_PASSWORD_"  # noqa: S105 - variables that hand passwords to the script
_FUNCTIONS = """\
known() {  # passwd or group, NAME
    if command -v getent >/dev/null 2>&1; then getent "$1" "$2" >/dev/null; else grep -q "^$2:" "/etc/$1"; fi
}
add_user() (  # NAME UID SHELL HOME
    name=$1 uid=$2 shell=$3 home=$4
    set --
    [ -z "$uid" ] || set -- "$@" -u "$uid"
    [ -z "$shell" ] || set -- "$@" -s "$shell"
    if command -v useradd >/dev/null 2>&1; then
        [ -z "$home" ] || set -- "$@" -d "$home"
        if known passwd "$name"; then
            [ $# -eq 0 ] || usermod "$@" "$name"
        elif known group "$name"; then
            useradd -m "$@" -g "$name" "$name"
        else
            useradd -m "$@" -U "$name"
        fi
    elif ! known passwd "$name"; then
        [ -z "$home" ] || set -- "$@" -h "$home"
        if known group "$name"; then set -- "$@" -G "$name"; fi
        adduser -D "$@" "$name"
    elif [ $# -gt 0 ]; then
        echo "account $name is there already, and without usermod it can't be changed" >&2
        exit 1
    fi
)
add_to_group() {  # NAME GROUP
    if command -v groupadd >/dev/null 2>&1; then
        known group "$2" || groupadd "$2"
        usermod -a -G "$2" "$1"
    else
        known group "$2" || addgroup "$2"
        addgroup "$1" "$2"
    fi
}
set_password() (  # NAME, password or hash on standard input
    IFS= read -r password
    case $password in
        \\$*) printf '%s:%s\\n' "$1" "$password" | chpasswd -e ;;
        *) printf '%s:%s\\n' "$1" "$password" | chpasswd ;;
    esac
)
authorize() (  # NAME, keys on standard input; those that are there already stay as they are
    if command -v getent >/dev/null 2>&1; then home=$(getent passwd "$1"); else home=$(grep "^$1:" /etc/passwd); fi
    home=$(echo "$home" | cut -d: -f6)
    group=$(id -g "$1")
    [ -d "$home" ] || mkdir -p -m 0755 "$home"
    mkdir -p "$home/.ssh"
    file=$home/.ssh/authorized_keys
    touch "$file"
    while IFS= read -r key; do
        grep -qxF -e "$key" "$file" || printf '%s\\n' "$key" >> "$file"
    done
    chown "$1:$group" "$home/.ssh" "$file"
    chmod 0700 "$home/.ssh"
    chmod 0600 "$file"
)
may_become_root() {  # NAME
    mkdir -p /etc/sudoers.d
    printf '%s ALL=(ALL) NOPASSWD:ALL\\n' "$1" > "/etc/sudoers.d/90-imageflow-$1"
    chmod 0440 "/etc/sudoers.d/90-imageflow-$1"
}
"""


def script(users: Sequence[Json]) -> str:
    """Make or change the accounts of a recipe's `users`; needs the variables of `passwords`."""
    lines = [_FUNCTIONS]
    for user in users:
        name = shlex.quote(user["name"])
        uid, shell, home = (
            shlex.quote(str(user.get(key) if user.get(key) is not None else "")) for key in ("uid", "shell", "home")
        )
        lines.append(f"add_user {name} {uid} {shell} {home}")
        lines += [f"add_to_group {name} {shlex.quote(group)}" for group in user.get("groups") or ()]
        lines += _password_of(name, user.get("password"))
        if keys := user.get("authorized_keys"):
            text = "".join(f"{key}\n" for key in keys)
            lines.append(f"printf %s {shlex.quote(text)} | authorize {name}")
        if user.get("sudo"):
            lines.append(f"may_become_root {name}")
    return "\n".join(lines) + "\n"


def passwords(users: Sequence[Json]) -> dict[str, str]:
    """Variables that the script reads -> names of the secrets that go into them."""
    names = [user["password"]["secret"] for user in users if isinstance(user.get("password"), Mapping)]
    return {_variable(name): name for name in names}


def _password_of(name: str, password: Any) -> list[str]:
    if password is None:
        return []
    if isinstance(password, Mapping):  # builtins only: it must not appear in the process list
        return [f'printf "%s\\n" "${{{_variable(password["secret"])}}}" | set_password {name}']
    return [f"printf '%s\\n' {shlex.quote(str(password))} | set_password {name}"]


def _variable(secret: str) -> str:
    return _PASSWORD + hashlib.sha256(secret.encode()).hexdigest()[:16]
