"""The services' configuration files, all below the cloud's folder: nothing in /etc is written."""

from __future__ import annotations

from collections.abc import Mapping

from tests.cloud.settings import ADDRESS, HOST, REGION, SECOND_REGION, Settings, write

Section = Mapping[str, object]
Sections = Mapping[str, Section]


def write_all(settings: Settings) -> None:
    """Write every file of every service."""
    files: dict[str, Sections] = {
        "keystone/keystone.conf": _keystone(settings),
        "placement/placement.conf": _placement(settings),
        "glance-api.conf": _glance(settings, "glance-api", "glance", REGION),
        "glance-second.conf": _glance(settings, "glance-second", "glance_second", SECOND_REGION),
        "nova.conf": _nova(settings),
        "neutron.conf": _neutron(settings),
        "ml2.ini": _linux_bridge(settings),
        "dhcp.ini": _dhcp(settings),
        "heat.conf": _heat(settings),
        "keystone-uwsgi.ini": _uwsgi(settings, "keystone", "/usr/bin/keystone-wsgi-public"),
        "placement-uwsgi.ini": _uwsgi(settings, "placement", "/usr/bin/placement-api"),
    }
    texts = {name: _ini(sections) for name, sections in files.items()}
    texts |= {
        "dnsmasq.conf": "no-resolv\nno-poll\nno-hosts\n",
        "rabbitmq.conf": _rabbit(settings),
        "rabbitmq-plugins": "[].\n",
        "libvirtd.conf": 'auth_unix_rw = "none"\nunix_sock_group = "root"\n',
        "virtlogd.conf": "",
        # Guests run as root, because only root can read our folder; cgroups and /dev belong to the machine's own libvirt.
        "libvirt/qemu.conf": 'user = "root"\ngroup = "root"\nsecurity_driver = "none"\n'
        "cgroup_controllers = [ ]\nnamespaces = [ ]\nremember_owner = 0\n",
    }
    for name, text in texts.items():
        write(settings.configuration / name, text)


def write_keystone(settings: Settings) -> None:
    """Write Keystone's file again."""
    write(settings.configuration / "keystone/keystone.conf", _ini(_keystone(settings)))


def _ini(sections: Sections) -> str:
    return "".join(
        f"[{name}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in section.items())
        for name, section in sections.items()
    )


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _account(settings: Settings, region: str = REGION) -> Section:
    return {
        "auth_url": settings.auth_url,
        "auth_type": "password",
        "username": "service",
        "password": settings.password,
        "project_name": "service",
        "user_domain_name": "Default",
        "project_domain_name": "Default",
        "region_name": region,
    }


def _tokens(settings: Settings, region: str = REGION) -> Sections:
    return {
        "keystone_authtoken": {
            "www_authenticate_uri": settings.auth_url,
            **_account(settings, region),
            "service_token_roles_required": True,
            "service_token_roles": "admin,service",
        }
    }


def _database(settings: Settings, name: str, section: str = "database") -> Sections:
    return {section: {"connection": settings.database(name), "max_pool_size": 5}}


def _messaging(settings: Settings, notify: bool = True) -> Sections:
    return {
        "oslo_messaging_notifications": {
            "driver": "messagingv2" if notify else "noop",
            "topics": "notifications",
        },
        "oslo_messaging_rabbit": {"heartbeat_in_pthread": False},
        "oslo_concurrency": {"lock_path": settings.state / "locks"},
        "cache": {"enabled": False},
    }


def _keystone(settings: Settings) -> Sections:
    keys = settings.state / "keystone"
    return {
        "DEFAULT": {"transport_url": settings.bus, "public_endpoint": settings.url("keystone")},
        **_database(settings, "keystone"),
        "token": {"provider": "fernet", "expiration": settings.token_life, "allow_expired_window": 172800},
        "fernet_tokens": {"key_repository": keys / "fernet-keys"},
        "fernet_receipts": {"key_repository": keys / "fernet-keys"},
        "credential": {"key_repository": keys / "credential-keys"},
        "identity": {"password_hash_rounds": 4},  # the default costs a quarter of a second at each login
        **_messaging(settings),
        "cache": {"enabled": True, "backend": "oslo_cache.dict"},  # in its one process
    }


def _placement(settings: Settings) -> Sections:
    return {
        "api": {"auth_strategy": "keystone"},
        **_database(settings, "placement", "placement_database"),
        **_tokens(settings),
    }


def _glance(settings: Settings, service: str, database: str, region: str) -> Sections:
    folder = settings.state / service
    return {
        "DEFAULT": {
            "bind_host": ADDRESS,
            "bind_port": settings.ports[service],
            "workers": 0,
            "transport_url": settings.bus,
            "enabled_backends": "main:file,spare:file",
            "show_multiple_locations": False,
        },
        "glance_store": {"default_backend": "main"},
        "main": {"filesystem_store_datadir": folder / "main"},
        "spare": {"filesystem_store_datadir": folder / "spare"},
        "os_glance_staging_store": {"filesystem_store_datadir": folder / "staging"},
        "os_glance_tasks_store": {"filesystem_store_datadir": folder / "tasks"},
        "import_filtering_opts": {"allowed_ports": ""},  # tests serve what it imports at ports of their own
        **_database(settings, database),
        "paste_deploy": {"flavor": "keystone", "config_file": "/etc/glance/glance-api-paste.ini"},
        **_tokens(settings, region),
        # Another region would have a bus of its own; nothing listens to this one.
        **_messaging(settings, notify=region == REGION),
    }


def _nova(settings: Settings) -> Sections:
    folder = settings.state / "nova"
    return {
        "DEFAULT": {
            "host": HOST,
            "my_ip": ADDRESS,
            "state_path": folder,
            "instances_path": folder / "instances",
            "transport_url": settings.bus,
            "enabled_apis": "osapi_compute",
            "osapi_compute_listen": ADDRESS,
            "osapi_compute_listen_port": settings.ports["nova-api"],
            "osapi_compute_workers": 1,
            "compute_driver": "libvirt.LibvirtDriver",
            "cpu_allocation_ratio": 32,
            "ram_allocation_ratio": 2,
            "disk_allocation_ratio": 4,
            "reserved_host_memory_mb": 0,
            "reserved_host_disk_mb": 0,
            "mkisofs_cmd": "genisoimage",
            "shutdown_timeout": 10,
            "vif_plugging_is_fatal": True,
            "vif_plugging_timeout": 60,
            "running_deleted_instance_action": "reap",
            "sync_power_state_interval": 60,
            # After an outage of the broker nova-compute may wait a minute for the answer to its last report.
            "service_down_time": 600,
            "default_ephemeral_format": "ext4",
        },
        "api": {"auth_strategy": "keystone"},
        **_database(settings, "nova_api", "api_database"),
        **_database(settings, "nova_cell1"),
        "conductor": {"workers": 1},
        "scheduler": {"workers": 1},
        "libvirt": {
            "virt_type": "qemu",
            "cpu_mode": "custom",
            "cpu_models": "Nehalem",
            "images_type": "qcow2",
            "inject_partition": -2,
            "hw_machine_type": "x86_64=pc",
            "snapshots_directory": folder / "instances/snapshots",
        },
        "notifications": {
            "notification_format": "both",
            "notify_on_state_change": "vm_and_task_state",
            "versioned_notifications_topics": "versioned_notifications",
        },
        "glance": {**_account(settings), "service_type": "image"},
        "placement": _account(settings),
        "neutron": _account(settings),
        "service_user": {"send_service_user_token": True, **_account(settings)},
        "vnc": {"enabled": False},
        "spice": {"enabled": False},
        "serial_console": {"enabled": False},
        "workarounds": {"disable_fallback_pcpu_query": True},
        **_tokens(settings),
        **_messaging(settings),
    }


def _neutron(settings: Settings) -> Sections:
    return {
        "DEFAULT": {
            "host": HOST,
            "state_path": settings.state / "neutron",
            "bind_host": ADDRESS,
            "bind_port": settings.ports["neutron-server"],
            "api_workers": 1,
            "rpc_workers": 1,
            "rpc_state_report_workers": 0,
            "core_plugin": "ml2",
            "service_plugins": "",
            "auth_strategy": "keystone",
            "transport_url": settings.bus,
            "notify_nova_on_port_status_changes": True,
            "notify_nova_on_port_data_changes": True,
            "dhcp_agents_per_network": 1,
            "agent_down_time": 600,  # as Nova's service_down_time
            "interface_driver": "linuxbridge",
        },
        "experimental": {"linuxbridge": True},
        # It is root already, and rootwrap takes half a second at each command.
        "agent": {"root_helper": "env"},
        **_database(settings, "neutron"),
        "nova": _account(settings),
        "placement": _account(settings),
        **_tokens(settings),
        **_messaging(settings),
    }


def _linux_bridge(settings: Settings) -> Sections:
    return {
        "ml2": {
            "type_drivers": "flat,local",
            "tenant_network_types": "local",
            "mechanism_drivers": "linuxbridge",
            "extension_drivers": "port_security",
        },
        "ml2_type_flat": {"flat_networks": "*"},
        "securitygroup": {"enable_security_group": False, "firewall_driver": "noop", "enable_ipset": False},
        "linux_bridge": {"physical_interface_mappings": f"cable:{settings.cloud_interface}"},
        "vxlan": {"enable_vxlan": False},
    }


def _dhcp(settings: Settings) -> Sections:
    return {
        "DEFAULT": {
            "interface_driver": "linuxbridge",
            "dhcp_driver": "neutron.agent.linux.dhcp.Dnsmasq",
            "enable_isolated_metadata": False,
            "enable_metadata_network": False,
            "dnsmasq_config_file": settings.configuration / "dnsmasq.conf",
            "dnsmasq_local_resolv": False,
            "resync_interval": 5,
        }
    }


def _heat(settings: Settings) -> Sections:
    # A trustee with a project makes each update of a stack fail: its trusts are for the stack's own project.
    trustee = {key: value for key, value in _account(settings).items() if not key.startswith("project_")}
    return {
        "DEFAULT": {
            "transport_url": settings.bus,
            "num_engine_workers": 1,
            "enable_stack_abandon": True,
            "enable_stack_adopt": True,
            "plugin_dirs": settings.heat_python / "imageflow/heat/plugins",
            "region_name_for_services": REGION,
            "auth_encryption_key": settings.password.ljust(32, "0"),
        },
        **_database(settings, "heat"),
        "heat_api": {"bind_host": ADDRESS, "bind_port": settings.ports["heat-api"], "workers": 0},
        "clients_keystone": {"auth_uri": settings.url("keystone")},
        "trustee": trustee,
        "paste_deploy": {"api_paste_config": "/etc/heat/api-paste.ini"},
        **_tokens(settings),
        **_messaging(settings),
    }


def _uwsgi(settings: Settings, service: str, program: str) -> Sections:
    return {
        "uwsgi": {
            "http-socket": f"{ADDRESS}:{settings.ports[service]}",
            "wsgi-file": program,
            "master": True,
            "processes": 1,
            "threads": 3,
            "enable-threads": True,
            "lazy-apps": True,
            "buffer-size": 65535,
            "post-buffering": 65535,
            "need-app": True,
            "die-on-term": True,
            "add-header": "Connection: close",  # it does not keep connections open, and clients would see resets
            "disable-logging": True,
        }
    }


def _rabbit(settings: Settings) -> str:
    return (
        f"listeners.tcp.1 = {ADDRESS}:{settings.ports['rabbit']}\n"
        f"distribution.listener.interface = {ADDRESS}\n"
        f"distribution.listener.port_range.min = {settings.ports['erlang']}\n"
        f"distribution.listener.port_range.max = {settings.ports['erlang']}\n"
        f"default_user = openstack\ndefault_pass = {settings.password}\nloopback_users = none\n"
        "disk_free_limit.absolute = 10MB\nvm_memory_high_watermark.absolute = 1GB\n"
        "log.console = true\nlog.console.level = warning\nlog.file = false\n"
        "log.channel.level = critical\n"  # clients that wait for a queue ask for it before it exists
    )
