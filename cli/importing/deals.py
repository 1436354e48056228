"""What a row says of a deal beyond its fields: its stage, how it ended, the lead it came from."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from dataclasses import dataclass

from cli.client import Json
from cli.importing.drafts import Draft
from cli.importing.stages import Pipeline, StageKind
from cli.importing.tally import Tally
from cli.problems import Problem

_NAMESPACE = uuid.UUID("0b4c7f0e-52a4-5a38-8f0b-3d8f2f1f6f1d")


@dataclass(frozen=True, slots=True)
class Deals:
    """How rows become deals. `all_won` says that every row is a won deal."""

    pipeline: Pipeline
    system: str
    all_won: bool

    def item(self, draft: Draft, tally: Tally) -> Json:
        """The deal with the times it opened and closed, as an item of a batch. Raises Problem."""
        kind = self._enter_stage(draft)
        close = self._close(draft, kind)
        if self.pipeline.id:
            draft.record["pipeline_id"] = self.pipeline.id
        opened = draft.beside.get("occur_time", "")
        if close and not opened and "occur_time" in close:
            tally.remark("closed deals without an opening time: taken as opened when they closed")
            opened = close["occur_time"]
        elif not opened:
            tally.remark("deals without an opening time: taken as opened now")
        if close and "occur_time" not in close:
            tally.remark("closed deals without a closing time: taken as closed when they opened")
        if (
            close
            and opened
            and dt.datetime.fromisoformat(close.get("occur_time", opened)) < dt.datetime.fromisoformat(opened)
        ):
            tally.remark("deals closed before they opened: kept as they are, left out of durations")
        return {"deal": draft.record, **with_time(opened), **({"close": close} if close else {})}

    def conversion(self, draft: Draft) -> Json:
        """The body of the call that converts the row's lead into this deal. Raises Problem.

        The conversion takes the time of the win or loss. The request id follows from what the row says, so
        the same row again is the same call.
        """
        kind = self._enter_stage(draft)
        close = self._close(draft, kind)
        if self.pipeline.id:
            draft.record["pipeline_id"] = self.pipeline.id
        happened = close.pop("occur_time", "") or draft.beside.get("occur_time", "")
        body: Json = {"deal": draft.record, **with_time(happened), **({"close": close} if close else {})}
        said = json.dumps([self.system, draft.beside["lead"], body], sort_keys=True, ensure_ascii=False)
        return {**body, "request_id": str(uuid.uuid5(_NAMESPACE, said))}

    def _enter_stage(self, draft: Draft) -> StageKind:
        """Sets the stage of a deal that is open; says how far the deal has come."""
        name = draft.beside.get("stage", "")
        if self.all_won or not name:
            return StageKind.WON if self.all_won else StageKind.OPEN
        stage = self.pipeline.stage(name)
        if stage.kind is StageKind.OPEN and stage.id:
            draft.record["stage_id"] = stage.id
        return stage.kind

    def _close(self, draft: Draft, kind: StageKind) -> Json:
        """How the deal ended; empty where it did not."""
        closed = draft.beside.get("close_time", "")
        reason = draft.beside.get("loss_reason", "")
        match kind:
            case StageKind.OPEN:
                if closed:
                    raise Problem("has a closing time but is in an open stage: map stage, or use --won")
                return {}
            case StageKind.WON:
                return {"won": {}, **with_time(closed)}
            case StageKind.LOST:
                return {"lost": {"loss_reason": reason} if reason else {}, **with_time(closed)}


def with_time(moment: str) -> Json:
    """The time something happened, where it is known."""
    return {"occur_time": moment} if moment else {}
