"""The server: typed requests in, lists, thoughts and numbers out (FastAPI).

Lists are made by one thread, whoever waits together (``batching.py``); whatever asks the store waits in threads of its
own, so that nothing holds up the loop that takes requests.
"""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader
from starlette.exceptions import HTTPException as NotServed

from recbole_think.itemic.codes import spelling
from recbole_think.options import check
from recbole_think.serving.ahead import Ahead
from recbole_think.serving.batching import Batcher, ClosedError, FullError
from recbole_think.serving.edge import Edge
from recbole_think.serving.metrics import Metrics
from recbole_think.serving.online import Answer, Recommender, Visitor
from recbole_think.serving.schemas import (
    EventsAnswer,
    EventsRequest,
    ExplainAnswer,
    ExplainedThought,
    HealthAnswer,
    ListedItem,
    Name,
    RecommendAnswer,
    RecommendRequest,
    Refused,
    recommend_request,
)
from recbole_think.serving.store import StoreError

log = logging.getLogger(__name__)
PATHS = frozenset(("/recommend", "/explain", "/events", "/health", "/metrics", "/docs", "/openapi.json"))
FIELDS = frozenset(("body", "query", "user", "events", "k", "mask_history", "item"))
STORE_THREADS, HEALTH_S = 8, 1.0
Told = TypeVar("Told")
KEY = APIKeyHeader(name="X-API-Key", auto_error=False, description="the server's key")


@dataclass(frozen=True)
class ServerOptions:
    """How requests are taken."""

    together: int = 16  # lists made together at most
    waiting: int = 64  # requests that wait at most; who comes then is told 429
    timeout_s: float = 5.0  # after which a list is not made any more, and the answer is 504
    most_kib: int = 256  # of a body
    key: str = ""  # that requests must bring; "" = anybody may ask

    def __post_init__(self):
        for name in ("together", "waiting", "timeout_s", "most_kib"):
            given = getattr(self, name)
            check(0 < given < 1e6, f"--{name} must be positive, and not endless, got {given}")


class Server:
    """A recommender behind paths; what it is given, it closes when it stops.

    Attributes:
        app: the ASGI application.
        batcher: who makes the lists.
        metrics: what is counted.
    """

    def __init__(self, recommender: Recommender, options: ServerOptions | None = None):
        """Begin to answer.

        Args:
            recommender: used by this server alone.
            options: how requests are taken.
        """
        self.recommender, self.options, self.metrics = recommender, options or ServerOptions(), Metrics()
        self.store, together = recommender.store, self.options.together
        self.batcher: Batcher[Visitor, Answer] = Batcher(
            recommender.answer, together, self.options.waiting, self.metrics.seen
        )
        self._asking = ThreadPoolExecutor(STORE_THREADS, "asking the store")
        self._asked = 0  # requests that wait for the store
        self._watch()
        self.app = Edge(self._paths(), self.metrics, self.options.most_kib << 10, self.options.timeout_s, PATHS)

    def _watch(self) -> None:
        cache, watch = self.recommender.cache, self.metrics.watch
        watch("waiting", "Requests that wait for a list.", lambda: len(self.batcher))
        watch("model_version", "Version of the direct model.", lambda: self.recommender.version)
        watch("prompt_cache_bytes", "Bytes of keys and values kept.", lambda: cache.held)
        watch("prompt_cache_users", "Users whose prompt is kept.", lambda: len(cache))
        watch("prompt_cache_hits", "Prompts that began as a kept one.", lambda: cache.hits)
        watch("prompt_cache_misses", "Prompts that did not.", lambda: cache.misses)
        watch("prompt_cache_evictions", "Prompts that were dropped for others.", lambda: cache.evicted)
        watch("store_failures", "Batches answered without the store.", lambda: self.recommender.store_failures)

    def _paths(self) -> FastAPI:
        api = FastAPI(
            title="RecBole-Think", version="1", lifespan=self._lifespan, redoc_url=None,
            description="Lists by a reasoning recommender that thinks ahead of time and answers at once.",
            responses={code: {"model": Refused} for code in (400, 401, 408, 413, 422, 429, 500, 503, 504)},
        )  # fmt: skip
        allowed = [Depends(self._require_key)] if self.options.key else []
        kind: Any = recommend_request(self.recommender.longest)

        @api.post("/recommend", response_model=RecommendAnswer, dependencies=allowed)
        async def recommend(asked: kind, request: Request) -> RecommendAnswer:
            """Return the best items for somebody now."""
            return await self.recommend(asked, request)

        api.post("/events", response_model=EventsAnswer, dependencies=allowed)(self.events)
        none: dict[int | str, dict[str, Any]] = {404: {"model": Refused}}
        api.get("/explain", response_model=ExplainAnswer, dependencies=allowed, responses=none)(self.explain)
        api.get("/health", response_model=HealthAnswer)(self.health)
        plain: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}
        api.get("/metrics", response_class=Response, responses=plain)(self.metrics_text)
        for error in (NotServed, RequestValidationError, StoreError, FullError, ClosedError, TimeoutError, Exception):
            api.add_exception_handler(error, _refused)
        return api

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Answer who is waiting before the end."""
        yield
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Answer who is waiting, and let go of everything."""
        self.batcher.close()
        self._asking.shutdown()
        self.store.close()

    async def _require_key(self, given: Annotated[str | None, Security(KEY)]) -> None:
        """Refuse who does not bring the key."""
        if not hmac.compare_digest((given or "").encode(), self.options.key.encode()):
            raise HTTPException(401, "header X-API-Key is missing or not the server's key")

    async def _stored(self, ask: Callable[[], Told], seconds: float) -> Told:
        """What the store says, in threads of their own; as many wait for it as may wait for a list.

        Raises:
            FullError: as many are waiting as may.
            TimeoutError: it does not say anything in time.
        """
        if self._asked >= self.options.waiting:
            raise FullError
        self._asked += 1
        asked = asyncio.wrap_future(self._asking.submit(ask))
        asked.add_done_callback(self._told)
        return await asyncio.wait_for(asyncio.shield(asked), seconds)

    def _told(self, asked: asyncio.Future) -> None:
        """Only now is there room for another: who has gone away is waited for by a thread all the same."""
        self._asked -= 1
        if not asked.cancelled():
            asked.exception()  # looked at, should nobody wait for it any more

    async def recommend(self, asked: RecommendRequest, request: Request) -> RecommendAnswer:
        """Return the best items for somebody now."""
        visitor = Visitor(asked.user, tuple(asked.events), asked.k, asked.mask_history)
        seconds = self.options.timeout_s
        answer = await asyncio.wait_for(asyncio.wrap_future(self.batcher.ask(visitor, seconds)), seconds)
        self.metrics.answers.labels(answer.source).inc()
        self.metrics.unknown.inc(answer.unknown)
        items = [ListedItem(rank=rank, **asdict(item)) for rank, item in enumerate(answer.items, start=1)]
        return RecommendAnswer(request_id=_id(request), **{**vars(answer), "items": items})

    async def events(self, told: EventsRequest, request: Request) -> EventsAnswer:
        """Keep what somebody did; once this has answered, it is not lost."""
        known = [item for item in told.events if item in self.recommender.served.catalogue.number]
        unknown, number = len(told.events) - len(known), 0
        if known:
            number = await self._stored(lambda: self.store.append(told.user, known), self.options.timeout_s)
        self.metrics.events.inc(len(known))
        self.metrics.unknown.inc(unknown)
        return EventsAnswer(request_id=_id(request), kept=len(known), unknown=unknown, number=number)

    async def explain(
        self, user: Annotated[Name, Query()], request: Request, item: Annotated[Name | None, Query()] = None
    ) -> ExplainAnswer:
        """Return what was thought about somebody, and how it speaks for an item."""
        catalogue, seconds = self.recommender.served.catalogue, self.options.timeout_s
        text, told = await self._stored(lambda: (self.store.get([user]), self.store.events([user])[user]), seconds)
        if user not in text:
            raise HTTPException(404, "nothing was thought about this user yet")
        if item is not None and item not in catalogue.number:
            raise HTTPException(404, "this item is not in the catalogue")
        codes = None if item is None else catalogue.codes.table[catalogue.number[item] - 1].tolist()
        ahead = Ahead.of(text[user])
        history = len(self.recommender.served.history(user)) + len(catalogue.known([event.item for event in told]))
        return ExplainAnswer(
            request_id=_id(request), user=user, thought_at=ahead.at, events=ahead.events,
            new_events=history - ahead.events,
            thoughts=[
                ExplainedThought(
                    words=one.words, scores=one.scores, leads_to_item=codes and one.leading_to(codes),
                    prefixes=["".join(map(spelling, range(len(prefix)), prefix)) for prefix in one.prefixes],
                )
                for one in ahead.rationales
            ],
        )  # fmt: skip

    async def health(self) -> HealthAnswer:
        """Whether all is well; answers soon, whatever the store does."""
        catalogue = self.recommender.served.catalogue
        try:
            version = await self._stored(self.store.current, min(HEALTH_S, self.options.timeout_s))
            status, thoughts = "ok", version.number if version else None
        except (StoreError, FullError, TimeoutError):
            status, thoughts = "degraded", None
        return HealthAnswer(
            status=status, model=self.recommender.version, thoughts=thoughts, catalogue=catalogue.digest,
            items=len(catalogue.names), waiting=len(self.batcher),
        )  # fmt: skip

    async def metrics_text(self) -> Response:
        """Numbers for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _id(request: Request) -> str:
    return request.state.request_id


async def _refused(request: Request, why: Exception) -> JSONResponse:
    """Every refusal in the same words; nothing of the request is said again, whatever it holds."""
    again = {"Retry-After": "1"}
    if isinstance(why, NotServed):
        return _said(request, why.status_code, str(why.detail), dict(why.headers or {}))
    if isinstance(why, RequestValidationError):
        return _said(request, 422, "; ".join(f"{_place(one['loc'])}: {one['msg']}" for one in why.errors()[:5]))
    if isinstance(why, FullError):
        return _said(request, 429, "too many requests are waiting; ask again in a second", again)
    if isinstance(why, ClosedError):
        return _said(request, 503, "the server is stopping")
    if isinstance(why, TimeoutError):
        return _said(
            request, 504, "no answer in time; events may have been kept all the same, lists were not made", again
        )
    if isinstance(why, StoreError):
        log.warning("the store does not answer: %s", why)
        return _said(request, 503, "the store does not answer; events may or may not have been kept", again)
    log.error("request %s failed", _id(request), exc_info=why)
    return _said(request, 500, "the server has failed; its log says how")


def _place(of: Sequence[Any]) -> str:
    """Where in a request something is wrong; a name that we do not know is the request's own."""
    return ".".join(str(part) if isinstance(part, int) or part in FIELDS else "..." for part in of)


def _said(request: Request, status: int, error: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"request_id": _id(request), "error": error}, status, headers=headers)
