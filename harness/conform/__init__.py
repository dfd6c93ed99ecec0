"""Conformance cases for blkif: what each end must do, as small numbered cases that cite their source."""
