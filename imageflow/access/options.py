"""The configuration files as oslo.policy and keystonemiddleware read them: with options of their own."""

from __future__ import annotations

from oslo_config import cfg

from imageflow.config import Config
from imageflow.errors import ConfigError


def parsed(config: Config) -> cfg.ConfigOpts:
    """The same files and the same environment, with no option registered yet."""
    conf = cfg.ConfigOpts()
    try:
        conf([], project="imageflow", default_config_files=list(config.files), default_config_dirs=[])
    except (cfg.Error, OSError) as error:
        raise ConfigError(f"configuration: {error}", hint="see etc/imageflow.conf.sample") from error
    return conf
