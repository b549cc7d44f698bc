"""The folder that heat.conf names in `plugin_dirs`: heat imports every module in it when it starts."""
