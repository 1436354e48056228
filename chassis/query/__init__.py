"""What to list: filters, orders and page tokens, from text a client wrote to SQL that is safe to run."""

from chassis.query.filter import condition
from chassis.query.order import Order, parse_order
from chassis.query.page import Page, page_of

__all__ = ["Order", "Page", "condition", "page_of", "parse_order"]
