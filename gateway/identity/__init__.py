"""Who may come in: tenants, their users, and the keys that programs call with."""
