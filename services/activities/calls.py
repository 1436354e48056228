"""Calls: telephone conversations that took place or were tried."""

from __future__ import annotations

from crm.activities.v1 import call_pb2 as pb

from chassis.resource import Resource
from chassis.service import Service
from services.activities import tables

calls: Resource[pb.Call] = Resource(pb.Call, tables.calls, optimistic=True)


class Calls(Service, serves="crm.activities.v1.CallService"):
    """Telephone conversations."""

    resource = calls
