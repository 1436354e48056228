"""Agents' way in: the Model Context Protocol over streamable HTTP, its tools made from the contract.

Without sessions and streams: each request stands by itself, on any gateway
(https://modelcontextprotocol.io/specification, 2025-11-25 and 2026-07-28, "Streamable HTTP" and "Tools").
"""
