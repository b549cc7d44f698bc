"""The driver qemu: machines on this host as QEMU processes that survive their worker."""
