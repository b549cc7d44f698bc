"""The driver qemu: machines on this host, as processes of QEMU that survive their worker."""
