"""Webhooks: what changes is posted to addresses that clients gave, signed, at least once, for a day of attempts."""
