"""What to list: filters, orders and page tokens, from text a client wrote to SQL that is safe to run.

A filter can also be asked about a record that is at hand.
"""

from chassis.query.filter import condition
from chassis.query.matching import Filter
from chassis.query.order import Order, parse_order
from chassis.query.page import Page, page_of

__all__ = ["Filter", "Order", "Page", "condition", "page_of", "parse_order"]
