"""Virtual machines: QEMU driven over QMP, RAM snapshots, ssh, serial console."""
