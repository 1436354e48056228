"""Publish the contract: make protos/baseline.binpb the current contract image, without comments.

Every later change is compared with it. A change that breaks clients needs a reason, which becomes a decision
record in docs/decisions/.
"""

import argparse
import datetime
import re
import subprocess
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = ROOT / "gen" / "contract.binpb"
BASELINE = ROOT / "protos" / "baseline.binpb"
DECISIONS = ROOT / "docs" / "decisions"


def breaking_changes() -> str:
    """What in the current contract breaks clients of the published one, one finding a line."""
    if not BASELINE.exists():
        return ""
    buf = Path(sys.executable).parent / "buf"
    compared = subprocess.run(
        [buf, "breaking", CONTRACT, "--against", BASELINE, "--config", ROOT / "buf.yaml"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if compared.returncode not in (0, 100):  # 100: it found something
        sys.exit(compared.stderr)
    return compared.stdout


def without_comments() -> bytes:
    image = descriptor_pb2.FileDescriptorSet.FromString(CONTRACT.read_bytes())
    for file in image.file:
        file.ClearField("source_code_info")
    return image.SerializeToString(deterministic=True)


def write_decision(reason: str, changes: str) -> Path:
    DECISIONS.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(path.name[:4]) for path in DECISIONS.glob("[0-9][0-9][0-9][0-9]-*.md")), default=0)
    slug = re.sub(r"[^a-z0-9]+", "-", reason.lower()).strip("-")[:50]
    record = DECISIONS / f"{number:04}-breaking-{slug}.md"
    today = datetime.datetime.now(datetime.UTC).date()
    record.write_text(
        f"# {number:04}: A breaking contract change\n\nPublished on {today}.\n\n## Reason\n\n{reason}\n\n"
        f"## What breaks\n\n```\n{changes}```\n"
    )
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--breaking", metavar="REASON", default="")
    reason = parser.parse_args().breaking.strip()
    changes = breaking_changes()
    if changes and not reason:
        sys.exit(f"{changes}This breaks clients. If it must be: make contract-release BREAKING='reason'")
    if changes:
        print(f"wrote {write_decision(reason, changes).relative_to(ROOT)}")
    BASELINE.write_bytes(without_comments())
    print(f"published {BASELINE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
