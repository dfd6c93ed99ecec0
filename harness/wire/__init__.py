"""The ends of blkif by hand: everything that goes over the wire is said by the caller, and nothing else happens."""
