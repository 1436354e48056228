"""The pipeline an import of deals goes through: found, made, or found to be another than asked for."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from enum import StrEnum

from cli.client import Client, Json
from cli.importing.directory import quoted
from cli.problems import Problem, UsageProblem

_NAMESPACE = uuid.UUID("5a1e0c4e-7a52-5d0c-9a2b-0f6c6b1f7c11")


class StageKind(StrEnum):
    """Whether a deal in a stage is open, won or lost."""

    OPEN = "open"
    WON = "won"
    LOST = "lost"

    @property
    def enum_name(self) -> str:
        """Its name in the contract."""
        return f"STAGE_KIND_{self.name}"


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage. Its id is empty where a dry run would have made it."""

    display_name: str
    kind: StageKind
    id: str = ""


@dataclass
class Pipeline:
    """The pipeline of an import. Without id it is the default one, or one a dry run would make."""

    id: str = ""
    display_name: str = ""
    stages: dict[str, Stage] = field(default_factory=dict)
    made: bool = False

    def stage(self, name: str) -> Stage:
        """The stage of that name. Raises Problem with those there are."""
        found = self.stages.get(name)
        if found is None:
            there = ", ".join(self.stages) or "none that is known"
            raise Problem(f"unknown stage {name!r}: the pipeline has {there}")
        return found


def parse_stages(text: str) -> list[Stage]:
    """Stages as the option gives them: `Prospecting,Engaging,Won:won,Lost:lost`. Raises UsageProblem."""
    stages = []
    for part in text.split(","):
        name, _, kind = part.strip().partition(":")
        if not name or kind not in ("", *StageKind):
            raise UsageProblem(f"--stages {text}: write name, name:won or name:lost, with commas between")
        stages.append(Stage(name.strip(), StageKind(kind or "open")))
    missing = [kind.value for kind in StageKind if kind not in {stage.kind for stage in stages}]
    if missing:
        raise UsageProblem(f"--stages {text}: a pipeline needs at least one {' and one '.join(missing)} stage")
    return stages


def choose(client: Client, name: str, stages: str, dry_run: bool) -> Pipeline:
    """The pipeline called `name`, or the default one where `name` is empty.

    One that does not exist is made from `stages`; one that exists must have those stages in that order.
    Raises Problem where it can be neither found nor made, or differs.
    """
    wanted = parse_stages(stages) if stages else []
    if not name:
        if wanted:
            raise UsageProblem("--stages needs --pipeline NAME")
        found = list(client.pages("/v1/pipelines", "pipelines", {"filter": "default = true"}))
        return as_pipeline(found[0]) if found else Pipeline()
    found = list(client.pages("/v1/pipelines", "pipelines", {"filter": f"display_name = {quoted(name)}"}))
    if len(found) > 1:
        raise Problem(f"several pipelines are called {name!r}: {', '.join(p['id'] for p in found)}")
    if found:
        pipeline = as_pipeline(found[0])
        if wanted:
            check_same(pipeline, wanted)
        return pipeline
    if not wanted:
        raise Problem(
            f"there is no pipeline {name!r}: say its stages, such as --stages 'New,Talking,Won:won,Lost:lost'"
        )
    if dry_run:
        return Pipeline("", name, {stage.display_name: stage for stage in wanted}, made=True)
    body: Json = {
        "display_name": name,
        "stages": [{"display_name": s.display_name, "kind": s.kind.enum_name} for s in wanted],
    }
    # The same name asks for the same pipeline, so two runs at once make one.
    request_id = str(uuid.uuid5(_NAMESPACE, f"{name}\n{stages}"))
    pipeline = as_pipeline(client.post("/v1/pipelines", body, {"request_id": request_id}))
    pipeline.made = True
    return pipeline


def as_pipeline(record: Json) -> Pipeline:
    """A pipeline from its JSON."""
    stages = [
        Stage(s["display_name"], StageKind(s["kind"].removeprefix("STAGE_KIND_").lower()), s["id"])
        for s in record.get("stages", [])
    ]
    return Pipeline(record["id"], record["display_name"], {stage.display_name: stage for stage in stages})


def check_same(pipeline: Pipeline, wanted: list[Stage]) -> None:
    """Raises Problem where an existing pipeline's stages are not the ones asked for."""
    there = [(stage.display_name, stage.kind) for stage in pipeline.stages.values()]
    if there != [(stage.display_name, stage.kind) for stage in wanted]:
        shown = ",".join(name if kind == "open" else f"{name}:{kind}" for name, kind in there)
        raise Problem(f"the pipeline {pipeline.display_name!r} has other stages: {shown}")
