"""Lists a file tree in place, with tools that any guest has: busybox or coreutils.

`python -m imageflow.content.listing [MORE]` prints the script, for diskimage-builder's hooks.
"""

from __future__ import annotations

import shlex
import sys

from imageflow.content.left_out import NORMAL, TREES

_PRUNED = " -o ".join(
    # the last two are large, and do not count either
    [f"-path {shlex.quote(f'.{tree}/*')}" for tree in TREES] + ["-path './boot/initr*'", "-name __pycache__"]
)
_STAT = "stat -c 'p %f %u %g %s %t %T %n'"
_NORMALISED = "\n".join(f"normal {shlex.quote(rule)} .{pattern}" for pattern, rule in NORMAL.items())

_SCRIPT = f"""
root=${{1:-}}
LC_ALL=C QUOTING_STYLE=literal
export LC_ALL QUOTING_STYLE
work=${{2:-}}
if [ -z "$work" ]; then
    work=$(mktemp -d) || exit 1
    trap 'rm -rf "$work"' EXIT
fi
export work
cd "$root/" || exit 1
capabilities=true  # does nothing
if command -v getcap >/dev/null 2>&1; then capabilities=getcap; fi
places() {{  # the mount points of the tree's own file systems
    echo .
    while read -r device place kind rest; do
        case $root:$device:$kind in :/dev/loop*:* | *:iso9660 | *:udf | *:squashfs) continue ;; *:/dev/*) ;; *) continue ;; esac
        place=$(printf '%b' "$place")
        case $place in "$root"/?*) echo ".${{place#"$root"}}" ;; esac
    done < /proc/mounts
}}
normal() {{  # RULE FILES…: digests of files read by a rule of sed
    rule=$1
    shift
    for file; do
        if [ -f "$file" ] && [ ! -L "$file" ]; then
            hash=$(sed -e "$rule" "$file" | sha256sum) && echo "n ${{hash%% *}} $file"
        fi
    done
}}
places | sort -u | while read -r place; do
    # no + in brackets: there busybox forgets what it has gathered
    find "$place" -xdev \\( {_PRUNED} \\) -prune \\
        -o -type l -exec {_STAT} {{}} + -exec stat -c 'l %n
%N' {{}} + \\
        -o -type f -size +0 -exec {_STAT} {{}} + -exec $capabilities {{}} + -exec sh -c 'printf "%s\\0" "$@" >&3' sh {{}} + \\
        -o -exec {_STAT} {{}} +
done 3>&1 >"$work/paths" |
    xargs -0 -r -n 500 -P "$(nproc 2>/dev/null || echo 1)" sh -c 'sha256sum "$@" >> "$work/hashes.$$"' sh
cat "$work"/*
{_NORMALISED}
"""


def script(more: str = "") -> str:
    """An sh script: lists the tree below its first argument, or the whole machine's; `more` may print further lines.

    Its second argument is an empty folder; without it, the script makes one and removes it.

    p MODE UID GID SIZE MAJOR MINOR PATH    (all hexadecimal but UID, GID and SIZE) a path, from `.` on
    HASH  PATH                              a file's digest, as sha256sum says it
    n HASH PATH                             instead: its digest without what differs between two builds
    x PATH                                  it will be removed
    l PATH, and in the next line PATH -> TARGET, as stat says it
    PATH CAPABILITIES                       as getcap says it
    end                                     this is all
    """
    return f"{_SCRIPT}{more}echo end\n"


if __name__ == "__main__":
    sys.stdout.write(script(*sys.argv[1:]))
