"""The SSH server that lets a build into its machine where the image's own does not: pure text, for sh.

It takes the port of the image's server until sealing: units of the image's server can be started and stopped as before,
and do nothing. It knows only the build's key, and opens the firewall for its port.
"""

from __future__ import annotations

import shlex

from imageflow.guest.keys import Keys

_FOLDER = "/etc/imageflow"
_UNITS = "/etc/systemd/system"
# Shell function: every file and folder that sealing removes, one a line; folders after what is in them.
FILES = f"""
way_in_files() {{
    for each in {_UNITS}/imageflow-way-in.service {_UNITS}/multi-user.target.wants/imageflow-way-in.service \\
        {_UNITS}/ssh.service.d {_UNITS}/sshd.service.d {_UNITS}/ssh.socket.d {_UNITS}/sshd.socket.d \\
        /etc/pam.d/imageflow-sshd /etc/local.d/imageflow.start /etc/init.d/S99imageflow {_FOLDER}; do
        case $each in
            *.d) [ "$(ls -A "$each" 2>/dev/null)" = zz-imageflow.conf ] || each=$each/zz-imageflow.conf ;;
        esac
        if [ -e "$each" ] || [ -L "$each" ]; then find "$each" -depth; fi
    done
}}
"""
REMOVE = """
way_in_files | while read -r each; do if [ -d "$each" ] && [ ! -L "$each" ]; then rmdir "$each"; else rm -f "$each"; fi; done
for each in /etc/nftables.conf /etc/nftables/* /etc/iptables/* /etc/sysconfig/nftables.conf /etc/sysconfig/ip*tables; do
    # a later step may have saved the rules
    if [ -f "$each" ] && grep -q imageflow-way-in "$each"; then sed -i /imageflow-way-in/d "$each"; fi
done
"""
# Shell functions: let connections to $port in, whatever rules are loaded; idempotent. Their rules have a comment.
FIREWALL = r"""open_nft() {
    nft list chains 2>/dev/null | while read -r word second third rest; do
        case "$word $rest" in
            table\ *) family=$second table=$third ;;
            chain\ *) chain=$second ;;
            type\ *)
                case "$second $family $rest" in
                    filter\ ip\ input* | filter\ inet\ input* | filter\ ip\ prerouting* | filter\ inet\ prerouting*) way=dport ;;
                    filter\ ip\ output* | filter\ inet\ output* | filter\ ip\ postrouting*) way=sport ;;
                    *) continue ;;
                esac
                nft list chain "$family" "$table" "$chain" 2>/dev/null | grep -q imageflow-way-in ||
                    nft insert rule "$family" "$table" "$chain" tcp "$way" "$port" accept comment '"imageflow-way-in"'
                ;;
        esac
    done
}
open_iptables() {
    [ -s /proc/net/ip_tables_names ] || return 0
    for pair in INPUT:--dport OUTPUT:--sport; do
        set -- "${pair%%:*}" -p tcp "${pair##*:}" "$port" -m comment --comment imageflow-way-in -j ACCEPT
        iptables -C "$@" 2>/dev/null || iptables -I "$@"
    done
}
"""
# Runs now, after later steps, and at each boot.
_RUN = (
    r"""#!/bin/sh
# Lets the build log in that makes this image, whatever its steps do. Sealing removes it.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
read -r port < /etc/imageflow/port
"""
    + FIREWALL
    + r"""ours() { [ -s /run/imageflow-sshd.pid ] && kill -0 "$(cat /run/imageflow-sshd.pid)" 2>/dev/null; }
serve_dropbear() {  # it takes the key from the account's authorized_keys, where it was put back
    command -v dropbear >/dev/null && command -v dropbearconvert >/dev/null || return 0
    dropbearconvert openssh dropbear /etc/imageflow/host_key /run/imageflow-host-key 2>/dev/null
    dropbear -s -r /run/imageflow-host-key -p "$port" -P /run/imageflow-sshd.pid 2>/dev/null
}
serve() {
    server=$(command -v sshd) || { serve_dropbear; return; }
    ln -sf "$server" /etc/imageflow/imageflow-sshd  # its name is that of its PAM service
    [ -s /etc/ssh/ssh_host_ed25519_key ] || (umask 077; cp /etc/imageflow/host_key /etc/ssh/ssh_host_ed25519_key)
    config=/etc/imageflow/sshd_config
    for more in 'UsePAM yes|PAMServiceName imageflow-sshd' 'UsePAM yes' ''; do
        { cat /etc/imageflow/base_config; printf '%s\n' "$more" | tr '|' '\n'; } > $config
        mkdir -p /run/sshd
        ! /etc/imageflow/imageflow-sshd -t -f $config 2>/dev/null || break
    done
    # the image's own server has the port, or one of its addresses, which would be enough for ours
    if [ -d /run/systemd/system ]; then systemctl stop ssh.socket sshd.socket ssh.service sshd.service 2>/dev/null; fi
    for file in /run/sshd.pid /var/run/sshd.pid; do [ ! -s $file ] || kill "$(cat $file)" 2>/dev/null; done
    for turn in 1 2 3 4 5 6 7 8; do
        mkdir -p /run/sshd /var/empty  # the image's unit may remove it when it stops
        /etc/imageflow/imageflow-sshd -f $config 2>/dev/null && return
        sleep 1
    done
    echo "the port $port can't be taken from the image's SSH server" >&2
}
if command -v nft >/dev/null 2>&1; then open_nft; fi
if command -v iptables >/dev/null 2>&1; then open_iptables; fi
ours || serve
exit 0
"""
)
_CONFIG = """\
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/imageflow/authorized_keys .ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UseDNS no
MaxStartups 100
PidFile /run/imageflow-sshd.pid
Subsystem sftp internal-sftp
"""
_PAM = "".join(f"{kind} sufficient pam_permit.so\n" for kind in ("auth", "account", "password", "session"))
_UNIT = """\
[Unit]
Description=Lets the build of this image log in
After=network.target nftables.service ufw.service firewalld.service iptables.service netfilter-persistent.service
[Service]
Type=oneshot
RemainAfterExit=yes
KillMode=process
ExecStart=/bin/sh /etc/imageflow/way-in
[Install]
WantedBy=multi-user.target
"""
_NO_SERVICE = """\
[Service]
Type=simple
RuntimeDirectoryPreserve=yes
ExecStartPre=
ExecStart=
ExecStart=/bin/sleep infinity
ExecReload=
ExecReload=/bin/true
"""
_NO_SOCKET = """\
[Socket]
ListenStream=
ListenStream=/run/imageflow-ssh.socket
"""
_INSTALL = r"""
umask 022
# the port that this connection came to; sudo hides it from its own environment
pid=$$
while [ -z "$port" ] && [ "${pid:-0}" -gt 1 ]; do
    found=$(tr '\0' '\n' < "/proc/$pid/environ" 2>/dev/null | sed -n 's/^SSH_CONNECTION=.* //p')
    port=$found
    pid=$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$pid/status")
done
port=${port:-22}
mkdir -p -m 0755 /etc/imageflow
echo "$port" > /etc/imageflow/port
printf 'Port %s\n%s' "$port" "$config" > /etc/imageflow/base_config
printf '%s\n' "$key" > /etc/imageflow/authorized_keys
(umask 077; printf '%s\n' "$host" > /etc/imageflow/host_key)
printf '%s' "$run" > /etc/imageflow/way-in
chmod 0755 /etc/imageflow/way-in
[ ! -d /etc/pam.d ] || printf '%s' "$pam" > /etc/pam.d/imageflow-sshd
if [ -d /run/systemd/system ]; then
    units=/etc/systemd/system
    printf '%s' "$unit" > $units/imageflow-way-in.service
    mkdir -p $units/multi-user.target.wants
    ln -sf ../imageflow-way-in.service $units/multi-user.target.wants/imageflow-way-in.service
    if command -v sshd >/dev/null 2>&1 || [ -x /usr/sbin/sshd ]; then
        for each in ssh sshd; do
            mkdir -p $units/$each.service.d $units/$each.socket.d
            printf '%s' "$no_service" > $units/$each.service.d/zz-imageflow.conf
            printf '%s' "$no_socket" > $units/$each.socket.d/zz-imageflow.conf
        done
    fi
    systemctl daemon-reload
    wait=
    case $(systemctl is-system-running 2>/dev/null) in initializing | starting) wait=--no-block ;; esac
    systemctl $wait restart imageflow-way-in.service
elif [ -d /etc/local.d ]; then
    ln -sf /etc/imageflow/way-in /etc/local.d/imageflow.start
    rc-update add local default >/dev/null 2>&1 || :
    sh /etc/imageflow/way-in
else
    [ ! -d /etc/init.d ] || ln -sf /etc/imageflow/way-in /etc/init.d/S99imageflow
    sh /etc/imageflow/way-in
fi
"""


def plain_config(port: int) -> str:
    """A configuration of OpenSSH that lets the build in with a key in an account's authorized_keys."""
    lines = [line for line in _CONFIG.splitlines() if not line.startswith(("PidFile", "HostKey"))]
    return "\n".join([f"Port {port}", *lines, ""]).replace("/etc/imageflow/authorized_keys ", "")


def script(keys: Keys, port: int | None = None) -> str:
    """Install the server, start it, and have it come up at each boot; idempotent, for root.

    `port`: where it listens; that of the connection which the script runs over by default.
    """
    settings = {
        "port": "" if port is None else str(port),
        "key": keys.public,
        "host": keys.host_private.read_text().rstrip("\n"),
        "config": _CONFIG,
        "run": _RUN,
        "pam": _PAM,
        "unit": _UNIT,
        "no_service": _NO_SERVICE,
        "no_socket": _NO_SOCKET,
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()) + _INSTALL
