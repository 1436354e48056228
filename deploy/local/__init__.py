"""The platform on one machine: PostgreSQL, NATS, a trace store, every service and the gateway.

`python -m deploy.local up` runs all of it under one supervisor. Tests start single servers with
`deploy.local.postgres.start` and `deploy.local.nats.start`.
"""
