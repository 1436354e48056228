"""Products: what a tenant sells."""

from __future__ import annotations

from collections.abc import Iterator

from crm.sales.v1 import product_pb2 as pb

from chassis.keys import Key
from chassis.resource import Resource
from chassis.service import Service
from chassis.work import Work
from services.sales import tables


async def prepare(_work: Work, product: pb.Product, _before: pb.Product | None) -> None:
    """A product is sold unless somebody says otherwise."""
    if not product.HasField("active"):
        product.active = True


def keys(product: pb.Product) -> Iterator[Key]:
    """A product is found by its sku, which no other has; without one, by its name."""
    if product.sku:
        yield Key("sku", product.sku, exclusive=True)
    else:
        yield Key("display_name", product.display_name.casefold())


products: Resource[pb.Product] = Resource(pb.Product, tables.products, prepare=prepare, keys=keys, optimistic=True)


class Products(Service, serves="crm.sales.v1.ProductService"):
    """What is sold."""

    resource = products
