"""Pipelines: the ways deals go, stage by stage."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final
from uuid import UUID, uuid5
from weakref import WeakKeyDictionary

from crm.sales.v1 import pipeline_pb2 as pb
from sqlalchemy import bindparam, func, select

from chassis import context, ids
from chassis.errors import AlreadyExists, Precondition, Reason, invalid
from chassis.keys import Key, claim
from chassis.resource import Resource
from chassis.rows import uuid_of
from chassis.service import Platform, Service
from chassis.work import View, Work
from services.sales import tables

# What a tenant has from the start (crm/sales/v1/pipeline.proto).
_FIRST: Final = (
    ("Prospecting", pb.STAGE_KIND_OPEN, 10),
    ("Qualification", pb.STAGE_KIND_OPEN, 20),
    ("Proposal", pb.STAGE_KIND_OPEN, 50),
    ("Negotiation", pb.STAGE_KIND_OPEN, 80),
    ("Won", pb.STAGE_KIND_WON, 100),
    ("Lost", pb.STAGE_KIND_LOST, 0),
)
_CERTAIN: Final = {pb.STAGE_KIND_WON: 100, pb.STAGE_KIND_LOST: 0}
_KINDS: Final = {pb.STAGE_KIND_OPEN: "open", pb.STAGE_KIND_WON: "won", pb.STAGE_KIND_LOST: "lost"}

_table, _deals = tables.pipelines, tables.deals
_DEFAULT = select(_table).where(
    _table.c.tenant_id == bindparam("tenant"), _table.c.default, _table.c.delete_time.is_(None)
)
# A pipeline that deals are put into waits with its own changes until they are there.
_DEFAULT_SHARED = _DEFAULT.with_for_update(read=True, key_share=True)
# Deleted deals count: they can be undeleted.
_USED = (
    select(_deals.c.stage_id)
    .distinct()
    .where(
        _deals.c.tenant_id == bindparam("tenant"),
        _deals.c.pipeline_id == bindparam("pipeline"),
        _deals.c.stage_id == func.any(bindparam("stages")),
    )
)


async def prepare(work: Work, pipeline: pb.Pipeline, before: pb.Pipeline | None) -> None:
    """Completes the stages, and keeps one pipeline of the tenant the default.

    Raises Invalid for stages that make no pipeline, Precondition (IN_USE) where deals stand in what would go.
    """
    reverts = work.method is not None and work.method.name == "RevertPipeline"
    _complete_stages(pipeline, before, work.tenant, returning=reverts)
    _check_stages(pipeline)
    if before is not None:
        await _check_unused(work, pipeline, before)
    await _keep_one_default(work, pipeline, before)


def _complete_stages(pipeline: pb.Pipeline, before: pb.Pipeline | None, tenant: UUID, *, returning: bool) -> None:
    """Gives each new stage an id; one that comes without is the stage of that name where there is one.

    A stage of its own past may come back where ``returning``.
    """
    known = before or first_pipeline(tenant)
    if known.id != pipeline.id:
        known = pb.Pipeline()
    named = {stage.id for stage in pipeline.stages}
    by_name = {stage.display_name: stage.id for stage in known.stages if stage.id not in named}
    known_ids = {stage.id for stage in known.stages}
    for index, stage in enumerate(pipeline.stages):
        if not stage.id:
            stage.id = by_name.pop(stage.display_name, "") or ids.new("stage")
        elif stage.id not in known_ids and not returning:
            message = "the pipeline has no such stage; a new one comes without an id"
            raise invalid(f"stages[{index}].id", message, Reason.REASON_STAGE_INVALID)
        if not stage.HasField("default_probability") and stage.kind in _CERTAIN:
            stage.default_probability = _CERTAIN[stage.kind]


def _check_stages(pipeline: pb.Pipeline) -> None:
    seen_ids, seen_names = set(), set()
    for index, stage in enumerate(pipeline.stages):
        if stage.id in seen_ids:
            raise invalid(f"stages[{index}].id", "the stage stands there twice", Reason.REASON_STAGE_INVALID)
        if stage.display_name.casefold() in seen_names:
            raise invalid(f"stages[{index}].display_name", "another stage of the pipeline has this name")
        seen_ids.add(stage.id)
        seen_names.add(stage.display_name.casefold())
    missing = _KINDS.keys() - {stage.kind for stage in pipeline.stages}
    if pipeline.stages and missing:
        kinds = " and ".join(_KINDS[kind] for kind in sorted(missing))
        raise invalid("stages", f"a pipeline has a stage of each kind; there is none for {kinds}")


async def _check_unused(work: Work, pipeline: pb.Pipeline, before: pb.Pipeline) -> None:
    kept = {stage.id: stage.kind for stage in pipeline.stages}
    if pipeline.HasField("delete_time"):
        kept = {}
    gone = {stage.id: stage.display_name for stage in before.stages if kept.get(stage.id) != stage.kind}
    if not gone:
        return
    rows = await work.rows(_USED, {"pipeline": uuid_of(before.id), "stages": [uuid_of(each) for each in gone]})
    if rows:
        names = ", ".join(sorted(f"'{gone[ids.encode('stage', row.stage_id)]}'" for row in rows))
        message = f"there are deals in {names}: the stage can neither go nor change its kind"
        raise Precondition(Reason.REASON_IN_USE, message, violations=[("stages", message)])


async def _keep_one_default(work: Work, pipeline: pb.Pipeline, before: pb.Pipeline | None) -> None:
    was = before is not None and before.default
    if was and (pipeline.HasField("delete_time") or not pipeline.default):
        raise Precondition(
            Reason.REASON_IN_USE, f"{pipeline.id} is the default pipeline; make another one the default first"
        )
    if was or not pipeline.default:
        return
    await _claim_default(work)
    rows = await work.rows(_DEFAULT)
    if not rows:
        return
    current = ids.encode("pipeline", rows[0].id)
    if work.method is not None and "Pipeline.updated" not in work.method.emits:
        shown = current if await work.sees(pipelines, rows[0].id) else "another one"
        message = f"{shown} is the default pipeline; make this one without, then update it to be the default"
        raise AlreadyExists(Reason.REASON_KEY_TAKEN, f"default: {message}", violations=[("default", message)])
    with context.unrestricted():  # whoever makes another one the default
        record = await work.lock(_unprepared, current)
    record.after.default = False
    await work.update(record)


async def _claim_default(work: Work) -> None:
    """Makes writers of the tenant's default wait for each other."""
    await claim(work, "pipeline", [Key("default", "")])


pipelines: Resource[pb.Pipeline] = Resource(pb.Pipeline, tables.pipelines, prepare=prepare)
# For the one change that `prepare` itself makes.
_unprepared: Resource[pb.Pipeline] = Resource(pb.Pipeline, tables.pipelines)


class Pipelines(Service, serves="crm.sales.v1.PipelineService"):
    """The ways deals go."""

    resource = pipelines

    async def ListPipelines(self, request: pb.ListPipelinesRequest, view: View) -> Any:
        """Lists pipelines; a tenant that has none yet gets its first one."""
        await default_pipeline(self.platform, view)
        return await self.standard.list(request, view)


def first_pipeline(tenant: UUID) -> pb.Pipeline:
    """The pipeline that a tenant has from the start. Its ids are derived from the tenant, so all make the same one."""
    pipeline = pb.Pipeline(display_name="Sales", default=True, id=ids.encode("pipeline", uuid5(tenant, "pipeline")))
    for name, kind, probability in _FIRST:
        stage_id = ids.encode("stage", uuid5(tenant, f"stage {name}"))
        pipeline.stages.add(id=stage_id, display_name=name, kind=kind, default_probability=probability)
    return pipeline


async def default_pipeline(platform: Platform, view: View) -> pb.Pipeline:
    """The tenant's default pipeline, for a call that only reads; where there is none, made in its own transaction."""
    if rows := await view.rows(_DEFAULT):
        return pipelines.read(rows[0])
    async with platform.db.write(view.tenant) as tx:
        work = Work(tx)
        made = await _default(work)
        await work.flush()
    platform.wake()
    return made


# The pipelines that a unit of work has read, so that the deals of a batch do not each read theirs.
_read: WeakKeyDictionary[Work, dict[str, pb.Pipeline]] = WeakKeyDictionary()


async def pipeline_for(work: Work, pipeline_id: str) -> pb.Pipeline:
    """The pipeline that a deal goes through, kept as it is until the transaction ends; the default one for no id.

    Raises Invalid where there is none, or it is deleted.
    """
    known = _read.setdefault(work, {})
    if pipeline_id not in known:
        known[pipeline_id] = await (_one(work, pipeline_id) if pipeline_id else _default(work))
        known[known[pipeline_id].id] = known[pipeline_id]
    return known[pipeline_id]


async def _one(work: Work, pipeline_id: str) -> pb.Pipeline:
    found = await work.share(pipelines, pipeline_id)
    if found is None and pipeline_id == first_pipeline(work.tenant).id:
        return await _default(work)
    if found is None or found.HasField("delete_time"):
        raise invalid("pipeline_id", f"there is no pipeline '{pipeline_id}'", Reason.REASON_NOT_FOUND)
    return found


async def _default(work: Work) -> pb.Pipeline:
    if rows := await work.rows(_DEFAULT_SHARED):
        return pipelines.read(rows[0])
    await _claim_default(work)
    if rows := await work.rows(_DEFAULT_SHARED):
        return pipelines.read(rows[0])
    first = first_pipeline(work.tenant)
    made = await work.create(pipelines, first, record_id=uuid_of(first.id))
    # At once, for the item of the batch that needed it may fail and be forgotten.
    await work.flush()
    return made


def stage_of(pipeline: pb.Pipeline, stage_id: str) -> pb.Stage:
    """The stage of a pipeline. Raises Invalid, STAGE_INVALID, where it has no such stage."""
    for stage in pipeline.stages:
        if stage.id == stage_id:
            return stage
    message = f"'{pipeline.display_name}' has no stage '{stage_id}'"
    raise invalid("stage_id", message, Reason.REASON_STAGE_INVALID)


def open_stage(pipeline: pb.Pipeline, stage_id: str) -> pb.Stage:
    """The open stage that is asked for. Raises Invalid, STAGE_INVALID, where there is none or it closes deals."""
    stage = stage_of(pipeline, stage_id)
    if stage.kind != pb.STAGE_KIND_OPEN:
        message = f"'{stage.display_name}' closes a deal; `:win` and `:lose` do that"
        raise invalid("stage_id", message, Reason.REASON_STAGE_INVALID)
    return stage


def first_stage(pipeline: pb.Pipeline, kind: pb.StageKind.ValueType, wanted: Collection[str] = ()) -> pb.Stage:
    """The pipeline's first stage of a kind; the last of ``wanted`` that is one, where given."""
    found = [stage for stage in pipeline.stages if stage.kind == kind]
    by_id = {stage.id: stage for stage in found}
    return next((by_id[each] for each in reversed(list(wanted)) if each in by_id), found[0])
