"""What ``walkeeper why-blocked`` prints: a line for each finding, or JSON for programs.

Rules: text from servers comes out in printable characters only.  In the JSON moments are RFC 3339, what is not known is
null, and fields may be added.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from walkeeper.errors import printable
from walkeeper.tools.diagnosis import Facts, Finding, is_blocked, is_seen

NOTHING = "nothing is blocked"
UNSEEN = "nothing is blocked, as far as could be seen"


def as_text(facts: Facts, findings: Sequence[Finding]) -> str:
    lines = [_line(facts.now, each) for each in findings]
    if is_blocked(findings):
        return "\n".join(lines)
    return "\n".join([NOTHING if is_seen(findings) else UNSEEN, *lines])


def _line(now: datetime, finding: Finding) -> str:
    """What, since when, what to do."""
    since = ""
    if finding.since is not None:
        seconds = max(0, round((now - finding.since).total_seconds()))
        since = f", since {finding.since.isoformat(timespec='seconds')} ({seconds} s)"
    return printable(f"{finding.gravity.value}: {finding.who}: {finding.what}{since}; to do: {finding.remedy}")


def as_json(facts: Facts, findings: Sequence[Finding]) -> str:
    ttid = facts.ttid
    document = {
        "tenant_id": None if ttid is None else str(ttid.tenant_id),
        "timeline_id": None if ttid is None else str(ttid.timeline_id),
        "now": facts.now,
        "is_blocked": is_blocked(findings),
        "findings": findings,
    }
    return msgspec.json.format(msgspec.json.encode(document)).decode()
