"""Sends a script to a guest's `sh`, and ends it there: pure text, for dash, bash and busybox.

The SSH server always sees the same short command line. The script, the values of its environment and its
standard input follow on the standard input: none of them appears in the process list or in a file.
`read` consumes no byte beyond its line, so the rest is the script's input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from imageflow.errors import BadInput

MARK = "IMAGEFLOW_COMMAND"  # in the environment of every process of a command: the command it belongs to
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Ends the command in a note: processes with its mark or in its session, and their descendants.
_END = r"""
imageflow_marked() {
    if printf 'a\0b' | grep -qF b; then
        grep -lF "IMAGEFLOW_COMMAND=$imageflow_mark" /proc/[0-9]*/environ
        return
    fi
    for imageflow_file in /proc/[0-9]*/environ; do  # busybox's grep sees nothing behind a NUL
        if tr '\0' '\n' < "$imageflow_file" | grep -qxF "IMAGEFLOW_COMMAND=$imageflow_mark"; then
            echo "$imageflow_file"
        fi
    done
}
imageflow_end() {  # FILE [MARK]: only the command with this mark
    [ -s "$1" ] || return 0
    read -r imageflow_mark imageflow_session < "$1" || return 0
    [ -z "${2:-}" ] || [ "$2" = "$imageflow_mark" ] || return 0
    imageflow_note=$1
    for imageflow_signal in TERM 0 0 0 0 0 0 0 0 KILL 0 0 KILL 0 0 0 0 KILL; do
        imageflow_found=" "
        for imageflow_file in $(imageflow_marked 2>/dev/null); do
            imageflow_file=${imageflow_file#/proc/}
            imageflow_found="$imageflow_found${imageflow_file%%/*} "
        done
        imageflow_more=1
        while [ "$imageflow_more" ]; do
            imageflow_more=
            for imageflow_file in /proc/[0-9]*/stat; do
                { read -r imageflow_line < "$imageflow_file"; } 2>/dev/null || continue
                imageflow_pid=${imageflow_line%% *}
                case $imageflow_found in *" $imageflow_pid "*) continue ;; esac
                set -- ${imageflow_line##*) }
                case "$1:$imageflow_found" in Z:* | X:*) continue ;; *" $2 "*) ;; *)
                    [ "$4" = "$imageflow_session" ] || continue
                ;; esac
                imageflow_found="$imageflow_found$imageflow_pid "
                imageflow_more=1
            done
        done
        [ "$imageflow_found" != " " ] || break
        if [ "$imageflow_signal" = 0 ]; then
            sleep 0.2 2>/dev/null || sleep 1
        else
            kill -s "$imageflow_signal" $imageflow_found 2>/dev/null || :
        fi
    done
    [ "$imageflow_found" = " " ] || echo "imageflow: can't be ended: process$imageflow_found" >&2
    rm -f "$imageflow_note"
}
imageflow_folder=/run/imageflow
{ mkdir -p "$imageflow_folder" && chmod 700 "$imageflow_folder"; } 2>/dev/null || {
    imageflow_folder=/tmp/.imageflow
    mkdir -p "$imageflow_folder" && chmod 700 "$imageflow_folder" || exit 125
}
imageflow_note=$imageflow_folder/command
"""

# If the shell, or the sudo that started it, leads its own session, that session belongs to the command.
_RUN = r"""
imageflow_end "$imageflow_note"
read -r imageflow_line < "/proc/$$/stat"
set -- ${imageflow_line##*) }
if [ "$4" != "$$" ]; then
    imageflow_name=
    [ "$4" != "$PPID" ] || { read -r imageflow_name < "/proc/$PPID/comm"; } 2>/dev/null || :
    [ "$imageflow_name" = sudo ] || set -- x x x none
fi
imageflow_note=$imageflow_folder/command
echo "$imageflow_this $4" > "$imageflow_note" || exit 125
set --
( eval "$imageflow_script" )
imageflow_code=$?
rm -f "$imageflow_note"
exit "$imageflow_code"
"""


def command_line(mark: str, *, sudo: bool) -> str:
    """The command line for the SSH server; works in any login shell, csh and fish included."""
    become = "sudo -n -H " if sudo else ""
    read = r'i=$(printf "\n.");i=${i%.};IFS= read -r imageflow_line||exit 125;eval "$imageflow_line"'
    return f"exec {become}env {MARK}={mark} sh -c '{read}'"


def header(script: str, environment: Mapping[str, str], mark: str) -> bytes:
    """The line that precedes the script's own standard input. Raises BadInput for what `sh` can't represent."""
    parts = [f"imageflow_this={mark}", f"imageflow_script={quoted(script)}", f"PATH=${{PATH:-}}:{_PATH}", "export PATH"]
    for name, value in environment.items():
        if not _NAME.fullmatch(name):
            raise BadInput(f"{name[:60]!r} is not a variable name", hint="letters, digits and '_'")
        parts.append(f"{name}={quoted(value)};export {name}")
    parts += [f"eval {quoted(_END)}", f"eval {quoted(_RUN)}"]
    return ";".join(parts).encode("utf-8", "surrogateescape") + b"\n"


def ending(mark: str) -> bytes:
    """The line that ends the command with this mark, if it is still running."""
    return f'eval {quoted(_END)};imageflow_end "$imageflow_note" {mark}\n'.encode()


def quoted(text: str) -> str:
    """Quote text as an `sh` word on one line; the variable i holds a line feed."""
    if "\0" in text:
        raise BadInput("a NUL character can't be in a script or in a variable", hint="put it into a file")
    return "'" + text.replace("'", "'\\''").replace("\n", "'\"$i\"'") + "'"
