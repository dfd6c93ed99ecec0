"""Emulated Xen: one host process is hypervisor and xenstored, the domains are ordinary processes."""
