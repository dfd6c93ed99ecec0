"""Xenstore: the wire protocol, the store behind it, a server for the emulated Xen and a client for any."""
