"""Scripts that a connection runs in a machine: pure text, for dash, bash and busybox."""

from __future__ import annotations

from imageflow.guest import archive
from imageflow.guest.keys import COMMENT

# A line for the machine's own name, where nothing knows it; sealing removes it.
OWN_NAME = f"""
name=$(cat /proc/sys/kernel/hostname 2>/dev/null)
case $name in *[!A-Za-z0-9._-]* | '') ;; *)
    if ! grep -qw -e "$name" /etc/hosts 2>/dev/null && ! getent hosts "$name" >/dev/null 2>&1; then
        echo "127.0.1.1 $name  # {COMMENT}" >> /etc/hosts
    fi
esac
"""
# Shell function: /etc/hosts without it.
HOSTS = f"""
hosts_of_image() {{ grep -v ' # {COMMENT}$' /etc/hosts; }}
hosts_changed() {{ grep -q ' # {COMMENT}$' /etc/hosts 2>/dev/null; }}
"""
FACTS = """
for tool in apt-get dnf zypper apk; do
    if command -v "$tool" >/dev/null 2>&1; then echo "packages=$tool"; break; fi
done
name=$(sed -n 's/^PRETTY_NAME="*\\([^"]*\\)"*$/\\1/p' /etc/os-release 2>/dev/null | head -n 1)
echo "system=${name:-$(uname -sr)}"
echo "python=$(command -v python3 2>/dev/null)"
"""
# Whether cloud-init goes on in this boot is asked of what started it: `cloud-init status --wait` waits for ever for one
# that was installed, enabled or reset after the boot. result.json is its last word, whatever the result.
READY = """
command -v cloud-init >/dev/null 2>&1 || exit 0
goes_on() {
    [ ! -e /run/cloud-init/result.json ] && [ ! -e /run/cloud-init/disabled ] || return 1
    if [ -d /run/systemd/system ]; then  # a unit of this boot has a job until it is done
        systemctl show --property=Job --property=ActiveState cloud-init-local.service cloud-init-main.service \\
            cloud-init.service cloud-init-network.service cloud-config.service cloud-final.service 2>/dev/null |
            grep -q -e '^Job=[1-9]' -e '^ActiveState=activating'
        return
    fi
    [ -e /run/cloud-init/status.json ] || return 1  # written by its first stage of this boot
    if [ -d /run/openrc ]; then
        [ -e /run/openrc/rc.starting ] || [ "$(ls /run/openrc/starting 2>/dev/null | grep -e ^cloud)" ]
        return
    fi
    case $(timeout 20 cloud-init status 2>/dev/null) in *disabled* | *done* | *degraded* | *error*) return 1 ;; esac
}
goes_on || exit 0
echo 'waiting for cloud-init'
while goes_on; do sleep 1; done
case $(timeout 60 cloud-init status 2>/dev/null) in
    *error* | *degraded*) echo "cloud-init ended with errors: see /var/log/cloud-init.log in the machine" ;;
esac
exit 0
"""
PUT = """
set -eu
umask 022
[ ! -d "$to" ] || { echo "$to is a directory" >&2; exit 1; }
folder=${to%/*}
mkdir -p "${folder:-/}"
aside=$folder/.imageflow-put
trap 'rm -f "$aside"' EXIT
trap 'exit 143' HUP INT TERM
rm -f "$aside"
(umask 077; cat > "$aside")
[ "$(wc -c < "$aside")" -eq "$size" ] || { echo 'it did not arrive whole' >&2; exit 1; }
chown "$owner" "$aside"
chmod "$mode" "$aside"
mv -f "$aside" "$to"
"""
PUT_TREE = f"""
set -eu
umask 022
to=${{to%/}}
mkdir -p "${{to%/*}}/"
rm -rf "$to.imageflow-put"
mkdir "$to.imageflow-put"
trap 'rm -rf "$to.imageflow-put"' EXIT
trap 'exit 143' HUP INT TERM
tar -xf - -C "$to.imageflow-put"
rm "$to.imageflow-put/{archive.LAST}"
rm -rf "$to"
mv "$to.imageflow-put" "$to"
"""
