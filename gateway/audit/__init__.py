"""The audit: the log of reads and refusals, and what it, the ledgers and their seals say to readers."""
