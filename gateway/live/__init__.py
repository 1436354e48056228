"""The live feed: what is committed anywhere reaches every subscriber of its tenant, never with a silent gap."""
