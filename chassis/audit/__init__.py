"""The sealed audit: what happened is chained by hashes a moment later, and the chains can be checked.

What is sealed a service declares with `chassis.chain.Log`; its ledger is without more.
"""

from chassis.audit.check import check_logs, heads
from chassis.audit.sealer import Sealer, seal_logs
from chassis.audit.service import Seals

__all__ = ["Sealer", "Seals", "check_logs", "heads", "seal_logs"]
