"""Lists a file tree where it is: with what any guest has, of busybox as well as of coreutils.

`python -m imageflow.content.listing [MORE]` prints the script, for diskimage-builder's hooks.
"""

from __future__ import annotations

import shlex
import sys

from imageflow.content.left_out import NORMAL, TREES

_PRUNED = " -o ".join(f"-path {shlex.quote(f'.{tree}/*')}" for tree in TREES)
_STAT = "stat -c 'p %f %u %g %s %t %T %n'"
_NORMALISED = "\n".join(f"normal {shlex.quote(rule)} .{pattern}" for pattern, rule in NORMAL.items())

_SCRIPT = f"""
root=${{1:-}}
LC_ALL=C QUOTING_STYLE=literal
export LC_ALL QUOTING_STYLE
cd "$root/" || exit 1
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
    # not in brackets: there busybox forgets what + has gathered
    find "$place" -xdev \\( {_PRUNED} \\) -prune \\
        -o -type l -exec {_STAT} {{}} + -exec stat -c 'l %n
%N' {{}} + \\
        -o -type f -size +0 -exec {_STAT} {{}} + -exec sha256sum {{}} + \\
        -o -exec {_STAT} {{}} +
    if command -v getcap >/dev/null 2>&1; then
        find "$place" -xdev \\( {_PRUNED} \\) -prune -o -type f -perm -0100 -exec getcap {{}} + | sed 's/^/c /'
    fi
done
{_NORMALISED}
"""


def script(more: str = "") -> str:
    """Of sh: lists the tree below its first argument, or the whole machine's; `more` may print other lines.

    p MODE UID GID SIZE MAJOR MINOR PATH    (all hexadecimal but UID, GID and SIZE) a path, from `.` on
    HASH  PATH                              a file's digest, as sha256sum says it
    n HASH PATH                             instead: its digest without what differs between two builds
    x PATH                                  it will be removed
    l PATH, and in the next line PATH -> TARGET, as stat says it
    c PATH CAPABILITIES                     as getcap says it
    end                                     this is all
    """
    return f"{_SCRIPT}{more}echo end\n"


if __name__ == "__main__":
    sys.stdout.write(script(*sys.argv[1:]))
