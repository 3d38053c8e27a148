"""The management API: routes and what each of them does.

Every handler asks the timelines and translates; nothing is decided and nothing is remembered here.  What the
answers look like is ``models``, what errors look like is ``outcomes``.  A body that a route does not need is
ignored, since Neon's clients send one with most requests; only what deletes refuses it, as Neon does.

Source: Neon's safekeeper HTTP API, and whose token each route needs.
"""

from http import HTTPStatus
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from walkeeper.acceptor.administration import BumpTerm, Checkpoint, PatchControlFile, SwitchMembership
from walkeeper.auth.claims import Verify
from walkeeper.control import models, openapi, patches
from walkeeper.control.digest import digest_wal
from walkeeper.control.dump import DebugDump, KeeperConfig, Wanted, dump
from walkeeper.control.endpoints import (
    Endpoint,
    Parameter,
    Whose,
    flag_in_query,
    id_in_query,
    lsn_in_query,
    require_known_query,
    tenant_id_of,
    tenant_in_path,
    ttid_of,
    whole_keeper,
)
from walkeeper.control.looks import Looks, Surroundings
from walkeeper.control.openapi import openapi_text
from walkeeper.control.tasks import describe_tasks
from walkeeper.errors import Blown
from walkeeper.ids import TenantId, TimelineId
from walkeeper.lsn import parse_lsn
from walkeeper.terms import Term
from walkeeper.timeline.timeline import Timeline
from walkeeper.timeline.timelines import Timelines

TENANT: Final = "/v1/tenant/{tenant_id}"
TIMELINE: Final = TENANT + "/timeline/{timeline_id}"

ONLY_LOCAL: Final = Parameter("only_local", bool, "makes no difference: there is no remote storage yet")

DUMP_PARAMETERS: Final = (
    Parameter("dump_all", bool, "what the others are that are not given"),
    Parameter("dump_control_file", bool, "with the control file as it is on disk"),
    Parameter("dump_memory", bool, "with what is in memory only"),
    Parameter("dump_term_history", bool, "with the term history in the control file, which is the default"),
    Parameter("dump_disk_content", bool, "makes no difference: walkeeper inspect tells that"),
    Parameter("dump_wal_last_modified", bool, "makes no difference: walkeeper inspect tells that"),
    Parameter("tenant_id", models.Hex, "only timelines of this tenant"),
    Parameter("timeline_id", models.Hex, "only timelines of this id"),
)

FORBIDDEN: Final = HTTPStatus.FORBIDDEN
NOT_FOUND: Final = HTTPStatus.NOT_FOUND
CONFLICT: Final = HTTPStatus.CONFLICT
DISK: Final = HTTPStatus.INTERNAL_SERVER_ERROR
NOT_YET: Final = HTTPStatus.NOT_IMPLEMENTED

NEEDS_PEERS: Final = (
    "this keeper copies nothing from others yet, nor for them: the writer fills keepers that lack WAL"
)
NEEDS_STORAGE: Final = "there is no remote storage yet"


class ManagementApi:
    """The routes under ``/v1``.  All of them but ``looks`` answer 503 until ``begin``, so that probes can be served before."""

    def __init__(self, config: KeeperConfig, verify: Verify | None = None, looks: Looks | None = None) -> None:
        self._config = config
        self._looks = looks or Looks(Surroundings(config))
        self._verify = verify
        self._loaded: Timelines | None = None

    def begin(self, timelines: Timelines) -> None:
        """Serve these timelines from now on."""
        self._loaded = timelines
        self._looks.begin(timelines)

    def _timelines(self) -> Timelines:
        if self._loaded is None:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "timelines are being loaded")
        return self._loaded

    def _timeline(self, request: Request) -> Timeline:
        return self._timelines().get(ttid_of(request))

    def routes(self) -> list[Route]:
        endpoints = self.endpoints()
        document = openapi_text(endpoints)

        async def show_document(_request: Request) -> Response:
            return Response(document, media_type="application/json")

        return [
            *(each.route(self._verify) for each in endpoints),
            Route(openapi.PATH, show_document, methods=["GET"]),
        ]

    def endpoints(self) -> list[Endpoint]:
        return [
            *self._keeper(),
            *self._life(),
            *self._change(),
            *self._look(),
            self._looks.endpoint(),
            self._looks.positions.endpoint(),
            *self._not_yet(),
        ]

    # -- the keeper and its timelines -------------------------------------------------------------------------

    def _keeper(self) -> list[Endpoint]:
        return [
            Endpoint("GET", "/v1/status", self.show_node, "Who this keeper is.", models.NodeStatus, whose=None),
            Endpoint(
                "GET",
                "/v1/utilization",
                self.show_utilization,
                "How much it has.",
                models.Utilization,
                whose=whole_keeper,
            ),
            Endpoint(
                "GET",
                "/v1/debug/tasks",
                self.show_tasks,
                "Every task of this process, and where it waits.",
                models.TasksJson,
                whose=whole_keeper,
            ),
            Endpoint(
                "GET",
                "/v1/tenant/timeline",
                self.list_timelines,
                "All timelines that can be used.",
                list[models.TimelineName],
                whose=whole_keeper,
            ),
        ]

    async def show_node(self, _request: Request, _body: None) -> models.Answer:
        self._timelines()  # whoever starts a keeper takes this answer for the end of its start
        return models.NodeStatus(id=self._config.id)

    async def show_utilization(self, _request: Request, _body: None) -> models.Answer:
        return models.Utilization(timeline_count=len(self._timelines().ttids()))

    async def show_tasks(self, _request: Request, _body: None) -> models.Answer:
        return describe_tasks()  # also while timelines are being loaded: then most of all

    async def list_timelines(self, _request: Request, _body: None) -> models.Answer:
        return [models.timeline_name(ttid) for ttid in self._timelines().ttids()]

    # -- the life of a timeline -------------------------------------------------------------------------------

    def _life(self) -> list[Endpoint]:
        return [
            Endpoint(
                "POST",
                "/v1/tenant/timeline",
                self.create_timeline,
                "Create a timeline; one that exists is left as it is, whatever the parameters.",
                None,
                models.CreateTimelineJson,
                statuses=(FORBIDDEN, CONFLICT, DISK),
                whose=lambda _request, wanted: wanted.ttid.tenant_id,
            ),
            Endpoint(
                "DELETE",
                TIMELINE,
                self.delete_timeline,
                "Delete a timeline here, durably.  Idempotent.",
                models.DeletedJson,
                refuses_body=True,
                parameters=(ONLY_LOCAL,),
                statuses=(DISK,),
            ),
            Endpoint(
                "DELETE",
                TENANT,
                self.delete_tenant,
                "Delete all timelines of a tenant here; the answer is keyed by timeline.  Idempotent.",
                dict[str, models.DeletedJson],
                refuses_body=True,
                parameters=(ONLY_LOCAL,),
                statuses=(DISK,),
            ),
            Endpoint(
                "PUT",
                TIMELINE + "/exclude",
                self.exclude,
                "Delete a timeline here because of a configuration that this keeper is no member of.  Idempotent.",
                models.DeletedJson,
                models.ConfigurationJson,
                statuses=(FORBIDDEN, CONFLICT, DISK),
            ),
        ]

    async def create_timeline(self, _request: Request, wanted: models.CreateTimelineJson) -> models.Answer:
        configuration = models.configuration_of(wanted.mconf)
        start_lsn = parse_lsn(wanted.start_lsn)
        commit_lsn = start_lsn if wanted.commit_lsn is None else parse_lsn(wanted.commit_lsn)
        await self._timelines().create(
            wanted.ttid,
            wanted.server,
            configuration=configuration,
            start_lsn=start_lsn,
            commit_lsn=commit_lsn,
            revives=True,
        )
        return None

    async def delete_timeline(self, request: Request, _body: None) -> models.Answer:
        ttid = ttid_of(request)
        flag_in_query(request, ONLY_LOCAL.name)
        return models.DeletedJson(dir_existed=await self._timelines().delete(ttid))

    async def delete_tenant(self, request: Request, _body: None) -> models.Answer:
        tenant_id = tenant_id_of(request)
        flag_in_query(request, ONLY_LOCAL.name)
        deleted = await self._timelines().delete_tenant(tenant_id)
        return {
            str(timeline_id): models.DeletedJson(dir_existed=existed) for timeline_id, existed in deleted.items()
        }

    async def exclude(self, request: Request, wanted: models.ConfigurationJson) -> models.Answer:
        excluding = models.configuration_of(wanted)
        return models.DeletedJson(
            dir_existed=await self._timelines().delete(ttid_of(request), excluding=excluding)
        )

    # -- what changes a timeline ------------------------------------------------------------------------------

    def _change(self) -> list[Endpoint]:
        return [
            Endpoint(
                "PUT",
                TIMELINE + "/membership",
                self.switch_membership,
                "Adopt a newer membership configuration.",
                models.MembershipSwitched,
                models.ConfigurationJson,
                statuses=(FORBIDDEN, NOT_FOUND, CONFLICT, DISK),
            ),
            Endpoint(
                "POST",
                TIMELINE + "/term_bump",
                self.bump_term,
                "Go to a higher term: whoever leads in a lower one is refused from then on.",
                models.TermBumped,
                models.TermBumpJson,
                statuses=(NOT_FOUND, CONFLICT, DISK),
            ),
            Endpoint(
                "POST",
                TIMELINE + "/checkpoint",
                self.checkpoint,
                "Save what has run ahead of the control file.",
                None,
                statuses=(NOT_FOUND, CONFLICT, DISK),
                whose=whole_keeper,
            ),
            Endpoint(
                "PATCH",
                TIMELINE + "/control_file",
                self.patch_control_file,
                "Replace fields of the control file, except those that say what the WAL here is.",
                patches.Patched,
                patches.PatchJson,
                statuses=(FORBIDDEN, NOT_FOUND, CONFLICT, DISK),
                whose=whole_keeper,
            ),
            Endpoint(
                "POST",
                "/v1/record_safekeeper_info/{tenant_id}/{timeline_id}",
                self.hear_of_peer,
                "Take in what another keeper says of itself.",
                None,
                models.PeerJson,
                statuses=(NOT_FOUND, CONFLICT, DISK),
            ),
        ]

    async def switch_membership(self, request: Request, wanted: models.ConfigurationJson) -> models.Answer:
        configuration = models.configuration_of(wanted)
        return models.membership_switched(
            *await self._timeline(request).administer(SwitchMembership(configuration))
        )

    async def bump_term(self, request: Request, wanted: models.TermBumpJson) -> models.Answer:
        term = None if wanted.term is None else Term(wanted.term)
        before, after = await self._timeline(request).administer(BumpTerm(term))
        return models.TermBumped(previous_term=before.term, current_term=after.term)

    async def checkpoint(self, request: Request, _body: None) -> models.Answer:
        timeline = self._timeline(request)
        await timeline.administer(Checkpoint(timeline.registry.remote_consistent_lsn))
        return None

    async def patch_control_file(self, request: Request, wanted: patches.PatchJson) -> models.Answer:
        before, after = await self._timeline(request).administer(PatchControlFile(wanted.apply))
        return patches.patched(before.current, after.current)

    async def hear_of_peer(self, request: Request, said: models.PeerJson) -> models.Answer:
        await self._timeline(request).administer(said.request)
        return None

    # -- what looks at a timeline -----------------------------------------------------------------------------

    def _look(self) -> list[Endpoint]:
        return [
            Endpoint(
                "GET",
                TIMELINE,
                self.show_timeline,
                "Positions, term, members, and who is connected.",
                models.TimelineStatus,
                statuses=(NOT_FOUND, CONFLICT),
            ),
            Endpoint(
                "GET",
                TIMELINE + "/digest",
                self.show_digest,
                "The SHA-256 of the WAL from from_lsn up to until_lsn.",
                models.Digest,
                parameters=(
                    Parameter("from_lsn", models.LsnText, "where it begins", is_required=True),
                    Parameter("until_lsn", models.LsnText, "where it ends", is_required=True),
                ),
                statuses=(NOT_FOUND, CONFLICT, DISK),
            ),
            Endpoint(
                "GET",
                "/v1/debug_dump",
                self.dump,
                "What this keeper knows of its timelines.",
                DebugDump,
                refuses_body=True,
                parameters=DUMP_PARAMETERS,
                whose=whole_keeper,
            ),
        ]

    async def dump(self, request: Request, _body: None) -> models.Answer:
        require_known_query(request, *(parameter.name for parameter in DUMP_PARAMETERS))
        flags = {each.name: each for each in DUMP_PARAMETERS if each.kind is bool}
        everything = flag_in_query(request, "dump_all")
        asked = {name: flag_in_query(request, name, default=everything) for name in flags}
        wanted = Wanted(
            control_file=asked["dump_control_file"],
            memory=asked["dump_memory"],
            term_history=flag_in_query(request, "dump_term_history", default=True),
        )
        tenant_id = id_in_query(request, "tenant_id", TenantId.parse)
        timeline_id = id_in_query(request, "timeline_id", TimelineId.parse)
        timelines = sorted(self._timelines().all(), key=lambda timeline: timeline.ttid)
        chosen = [
            timeline
            for timeline in timelines
            if tenant_id in (None, timeline.ttid.tenant_id) and timeline_id in (None, timeline.ttid.timeline_id)
        ]
        return await dump(self._config, len(timelines), chosen, wanted)

    async def show_timeline(self, request: Request, _body: None) -> models.Answer:
        statistics = self._timeline(request).statistics()
        if statistics.state is None:
            raise Blown(statistics.ttid)
        return models.timeline_status(statistics, statistics.state)

    async def show_digest(self, request: Request, _body: None) -> models.Answer:
        begin, end = lsn_in_query(request, "from_lsn"), lsn_in_query(request, "until_lsn")
        return models.Digest(sha256=await digest_wal(self._timeline(request), begin, end))

    # -- what there is not ------------------------------------------------------------------------------------

    def _not_yet(self) -> list[Endpoint]:
        missing = (
            ("POST", "/v1/pull_timeline", NEEDS_PEERS, whole_keeper),
            ("GET", TIMELINE + "/snapshot/{destination_id}", NEEDS_PEERS, tenant_in_path),
            ("POST", TENANT + "/timeline/{timeline_id}/copy", NEEDS_STORAGE, whole_keeper),
            ("POST", TIMELINE + "/backup_partial_reset", NEEDS_STORAGE, tenant_in_path),
        )
        return [_not_yet(method, path, why, whose) for method, path, why, whose in missing]


def _not_yet(method: str, path: str, why: str, whose: Whose) -> Endpoint:
    async def refuse(_request: Request, _body: Any) -> models.Answer:
        raise HTTPException(NOT_YET, f"not implemented: {why}")

    return Endpoint(method, path, refuse, f"Not implemented: {why}.", None, statuses=(NOT_YET,), whose=whose)
