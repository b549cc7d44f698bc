"""Words of other tools' files, and what a recipe says instead: hints for people who come from there."""

from __future__ import annotations

_SCHEDULE = "imageflow says 'on: [{schedule: \"0 3 * * *\"}]'; it builds only when an input has changed"
_SHELL = "imageflow says '- shell: |' and the commands below it, in 'configure:'"
_STEPS = "imageflow says 'configure:' and a list of steps: packages, files, users, services, shell, ansible, …"
_ANSIBLE = "a playbook stays as it is: '- ansible: {playbook: FILE}' in 'configure:'"
_FILES = "imageflow says '- files: [{source: FILE, path: PATH}]' in 'configure:'"
_BASE = "imageflow says 'base: {url: URL, sha256: DIGEST}', {file: PATH}, {image: NAME} or {glance: NAME}"
_ISO = "imageflow says 'iso: {url: URL, sha256: DIGEST}' or {file: PATH}"
_MACHINE = "imageflow says 'machine: {vcpus: 2, memory: 1024, disk: 10}'; memory in MiB, disk in GiB"
_USER = "imageflow says 'machine: {user: NAME}' for the account that it logs in as"
_WORDS = {
    # nodepool
    "env-vars": "diskimage-builder says 'environment:'",
    "release": "diskimage-builder says 'environment: {DIB_RELEASE: NAME}'",
    "formats": "diskimage-builder says 'types:'",
    "rebuild-age": _SCHEDULE,
    "build-timeout": "imageflow says 'timeout: {build: SECONDS}' beside 'dib:'",
    "diskimages": "imageflow says 'images:'; each entry's own keys go below its 'dib:'",
    "diskimage": "imageflow says 'dib:'",
    "parent": "YAML's own '<<: *NAME' merges a mapping; a base image is 'base: {image: NAME}' with method: boot",
    "python-path": "imageflow finds Python in the machine by itself: remove it",
    "shell-type": "imageflow needs no such thing: remove it",
    "username": _USER,
    "metadata": "imageflow says 'publish: {properties: {NAME: TEXT}}'",
    "meta": "imageflow says 'publish: {properties: {NAME: TEXT}}'",
    "env": "diskimage-builder, and a shell step, say 'environment:'",
    "env_vars": "diskimage-builder says 'environment:'",
    # Packer
    "builders": "imageflow says 'images:'; each entry has a method: dib, boot or install",
    "sources": "imageflow says 'images:'; each entry has a method: dib, boot or install",
    "provisioners": _STEPS,
    "provisioner": _STEPS,
    "post-processors": "imageflow says 'outputs: [qcow2, raw, vhd]', 'publish:' and 'verify:'",
    "variables": "a value is changed with '--set KEY=VALUE', or shared by an anchor below a key that begins with 'x-'",
    "inline": _SHELL,
    "script": "imageflow says '- shell: {source: FILE}' in 'configure:'",
    "scripts": "imageflow says '- shell: {source: FILE}' in 'configure:', one for each",
    "environment_vars": "imageflow says 'environment: {NAME: VALUE}' in the shell step",
    "expect_disconnect": "imageflow says 'reboot: true' in the step that reboots",
    "pause_before": "imageflow waits for what it needs: '- reboot: {}' waits until the machine is up",
    "playbook_file": "imageflow says '- ansible: {playbook: FILE}'",
    "extra_vars": "imageflow says '- ansible: {playbook: FILE, variables: {NAME: VALUE}}'",
    "extra_arguments": "imageflow says 'variables:' and 'tags:' beside 'playbook:'",
    "iso_url": _ISO,
    "iso_urls": _ISO,
    "iso_checksum": _ISO,
    "source_image": _BASE,
    "source_image_name": _BASE,
    "boot_command": "imageflow needs none: it remasters the ISO; the answers are 'answers: {preseed: FILE}', kickstart, …",
    "http_directory": "imageflow puts the answer file on the ISO: 'answers: {preseed: FILE}', kickstart, …",
    "cpus": _MACHINE,
    "disk_size": _MACHINE,
    "qemuargs": _MACHINE,
    "ssh_username": _USER,
    "ssh_user": _USER,
    "ssh_password": "imageflow logs in with a key of its own: remove it",
    "ssh_timeout": "it is the operator's: [install] ssh in the configuration",
    "shutdown_command": "imageflow shuts the machine down by itself: remove it",
    "image_name": "imageflow says 'name:', and 'publish: {name: NAME}' for the published one",
    # osbuild
    "customizations": _STEPS,
    "blueprint": "imageflow says 'images:'",
    "pipelines": _STEPS,
    "stages": _STEPS,
    "distro": "imageflow says which image it starts from: 'base:', 'iso:', or diskimage-builder's elements",
    "image_type": "imageflow says 'outputs: [qcow2]'",
    "image-type": "imageflow says 'outputs: [qcow2]'",
    "hostname": "an image has no host name: its machines get theirs from cloud-init",
    # Ansible, cloud-init
    "hosts": _ANSIBLE,
    "tasks": _ANSIBLE,
    "roles": _ANSIBLE,
    "become": _ANSIBLE,
    "vars": "imageflow says 'variables:'",
    "apt": "imageflow says '- packages: [NAME]'",
    "yum": "imageflow says '- packages: [NAME]'",
    "dnf": "imageflow says '- packages: [NAME]'",
    "package": "imageflow says '- packages: [NAME]'",
    "service": "imageflow says '- services: {enable: [NAME]}'",
    "systemd": "imageflow says '- services: {enable: [NAME]}'",
    "copy": _FILES,
    "template": "imageflow says '- files: [{source: FILE, path: PATH, template: true, variables: {…}}]'",
    "write_files": _FILES,
    "dest": "imageflow says 'path:'",
    "src": "imageflow says 'source:'",
    "permissions": "imageflow says 'mode:'",
    "command": _SHELL,
    "runcmd": _SHELL,
    "run": _SHELL,
    "user": "imageflow says '- users: [{name: NAME}]' in 'configure:', and 'machine: {user: NAME}' for its own login",
    "ssh_authorized_keys": "imageflow says 'authorized_keys:'",
    "ssh_keys": "imageflow says 'authorized_keys:'",
    "steps": _STEPS,
}


def hint(word: str) -> str:
    """What a recipe says instead of another tool's word; '' for an unknown one."""
    return _WORDS.get(word, "")
