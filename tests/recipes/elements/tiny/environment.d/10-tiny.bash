export DISTRO_NAME=tiny
