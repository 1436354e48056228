"""Arguments that many commands take."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

Json = Annotated[bool, Parameter(name="--json", help="Print JSON, for programs.", negative="")]
Id = Annotated[str, Parameter(name="ID")]
