"""The lab: real Xen with Linux in domain 0, emulated by QEMU, for tests of what needs a real hypervisor."""
