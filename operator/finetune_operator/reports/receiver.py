"""The HTTPS receiver: reads a report, asks who sent it, and hands it on."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware
from pydantic import ValidationError

from finetune_api.names import REPORT_MAX_BYTES, REPORT_PATH, report_audience
from finetune_api.report import TrainerReport
from finetune_operator.kube.client import ApiError
from finetune_operator.kube.store import Store
from finetune_operator.objects import controller_uid_of, has_started, is_over, namespace_of, uid_of
from finetune_operator.reports.authentication import Authenticator, Refused, Sender
from finetune_operator.reports.book import ReportBook
from finetune_operator.reports.limits import RateLimit
from finetune_operator.reports.relay import Relay

REPORTS_PER_SECOND: Final = 1.0
REPORTS_AT_ONCE: Final = 5.0
"""What one pod may send; a trainer sends one every five seconds."""
READ_SECONDS: Final = 10.0
"""How long a sender may take over its body."""
RUN: Final = web.RequestKey("run", str)
"""On a request whose sender proved to be the run's own: the run's UID."""

log = logging.getLogger(__name__)


class Receiver:
    """Takes reports and answers 202, or says why not. It never answers with anything about another run."""

    def __init__(self, authenticator: Authenticator, store: Store, book: ReportBook, relay: Relay | None = None) -> None:
        """Make a receiver; ``relay`` takes the reports of a replica that does not lead."""
        self._authenticator = authenticator
        self._store = store
        self._book = book
        self._relay = relay
        self._rate = RateLimit(REPORTS_PER_SECOND, REPORTS_AT_ONCE)
        self.received = 0
        self.refused = 0
        self.on_report: Callable[[int, bool], None] = lambda *_: None
        """Is told of each report: the status code of the answer, and whether another replica gave it."""

    def build_app(self, middlewares: Sequence[Middleware] = ()) -> web.Application:
        """Return the web application with its one route."""
        app = web.Application(client_max_size=REPORT_MAX_BYTES, middlewares=middlewares)
        app.router.add_post(REPORT_PATH, self.handle)
        return app

    async def handle(self, request: web.Request) -> web.Response:
        """Take one report."""
        try:
            report = await self._read(request)
            sender = await self._authenticate(request, report)
            if not self._rate.allows(sender.pod_uid):
                raise Refused(429, "too many reports from this pod")
            self._check_ownership(sender, report)
            request[RUN] = report.job.uid
            if self._relay is not None and self._relay.is_needed:
                status, text = await self._relay.hand_on(await request.read(), request.headers["Authorization"])
                self.on_report(status, True)  # noqa: FBT003
                return web.Response(status=status, body=text, content_type="application/json")
            if not self._book.offer(report.job.uid, sender.pod_uid, report):
                raise Refused(409, "not newer than the last report of this pod")
        except Refused as refusal:
            self.refused += 1
            self.on_report(refusal.status, False)  # noqa: FBT003
            log.info("report refused: %d %s", refusal.status, refusal.message)
            return web.json_response({"message": refusal.message}, status=refusal.status)
        self.received += 1
        self.on_report(202, False)  # noqa: FBT003
        return web.Response(status=202)

    async def _read(self, request: web.Request) -> TrainerReport:
        if not request.headers.get("Authorization", "").startswith("Bearer "):
            raise Refused(401, "a bearer token is needed")
        try:
            async with asyncio.timeout(READ_SECONDS):
                body = await request.read()
        except TimeoutError:
            raise Refused(408, f"the body did not come within {READ_SECONDS:.0f} s") from None
        except web.HTTPRequestEntityTooLarge:
            raise Refused(413, f"a report has at most {REPORT_MAX_BYTES} bytes") from None
        try:
            return TrainerReport.model_validate_json(body, strict=True)
        except ValidationError as error:
            faults = [
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_url=False, include_input=False)
            ]
            raise Refused(422, "; ".join(faults)[:1024]) from None

    async def _authenticate(self, request: web.Request, report: TrainerReport) -> Sender:
        token = request.headers["Authorization"].removeprefix("Bearer ").strip()
        try:
            return await self._authenticator.authenticate(token, report_audience(report.job.uid))
        except ApiError as error:
            log.warning("token not reviewed: %s", error)
            raise Refused(503, "the token can't be checked now; send the next report") from error

    def _check_ownership(self, sender: Sender, report: TrainerReport) -> None:
        """The pod must be the run's own, and its newest: pod -> Job -> FineTuneJob, by UID at each step."""
        stranger = Refused(403, "the token's pod is not a running pod of this run")
        pod, body = self._store.pod(sender.pod_uid), self._store.finetunejob(report.job.uid)
        if pod is None or body is None or is_over(pod):
            raise stranger
        namespace = namespace_of(body)
        if {sender.namespace, namespace_of(pod), report.job.namespace} != {namespace} or report.job.name != body["metadata"]["name"]:
            raise stranger
        jobs = {uid_of(job) for job in self._store.jobs_of(report.job.uid) if namespace_of(job) == namespace}
        if controller_uid_of(pod) not in jobs:
            raise stranger
        if (body.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            raise Refused(409, "the run has ended")
        created = pod["metadata"]["creationTimestamp"]
        siblings = (other for other in self._store.pods_of(report.job.uid) if controller_uid_of(other) in jobs and has_started(other))
        if any(other["metadata"]["creationTimestamp"] > created for other in siblings):
            raise Refused(409, "a newer pod of this run has started")
