"""The server: typed requests in, lists, thoughts and numbers out (FastAPI).

Lists are made by one thread, whoever waits together (``batching.py``); whatever asks the store waits in threads of its
own, so that nothing holds up the loop that takes requests.
"""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any

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
from recbole_think.serving.online import Answer, Asked, Recommender
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
            check(getattr(self, name) > 0, f"--{name} must be positive, got {getattr(self, name)}")


def create_app(recommender: Recommender, options: ServerOptions | None = None) -> Any:
    """Build the application around a recommender; what it opens, it closes when it stops.

    Args:
        recommender: answers; used by this application alone.
        options: how requests are taken.
    """
    server = Server(recommender, options or ServerOptions())
    api = FastAPI(
        title="RecBole-Think", version="1", lifespan=server.lifespan, redoc_url=None,
        description="Lists by a reasoning recommender that thinks ahead of time and answers at once.",
        responses={code: {"model": Refused} for code in (400, 401, 413, 422, 429, 503, 504)},
    )  # fmt: skip
    allowed = [Depends(server.require_key)] if server.options.key else []
    request_kind: Any = recommend_request(recommender.longest)

    @api.post("/recommend", response_model=RecommendAnswer, dependencies=allowed)
    async def recommend(asked: request_kind, request: Request) -> RecommendAnswer:
        """Return the best items for somebody now."""
        return await server.recommend(asked, request)

    api.post("/events", response_model=EventsAnswer, dependencies=allowed)(server.events)
    api.get("/explain", response_model=ExplainAnswer, dependencies=allowed, responses={404: {"model": Refused}})(
        server.explain
    )
    api.get("/health", response_model=HealthAnswer)(server.health)
    api.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})(server.metrics_text)
    for kind in (NotServed, RequestValidationError, StoreError, FullError, ClosedError, TimeoutError):
        api.add_exception_handler(kind, _refused)
    api.state.server = server
    return Edge(api, server.metrics, server.options.most_kib << 10, PATHS)


class Server:
    """What is behind the paths."""

    def __init__(self, recommender: Recommender, options: ServerOptions):
        self.recommender, self.options, self.metrics = recommender, options, Metrics()
        self.store = recommender.store
        self.batcher: Batcher[Asked, Answer] = Batcher(
            recommender.answer, options.together, options.waiting, self.metrics.seen
        )
        cache, watch = recommender.cache, self.metrics.watch
        watch("waiting", "Requests that wait for a list.", lambda: len(self.batcher))
        watch("model_version", "Version of the direct model.", lambda: recommender.version)
        watch("prompt_cache_bytes", "Bytes of keys and values kept.", lambda: cache.held)
        watch("prompt_cache_users", "Users whose prompt is kept.", lambda: len(cache))
        watch("prompt_cache_hits", "Prompts that began as a kept one.", lambda: cache.hits)
        watch("prompt_cache_misses", "Prompts that did not.", lambda: cache.misses)
        watch("prompt_cache_evictions", "Prompts that were dropped for others.", lambda: cache.evicted)
        watch("store_failures", "Batches that were answered without the store.", lambda: recommender.store_failures)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Answer who is waiting before the end."""
        yield
        await asyncio.to_thread(self.batcher.close)
        self.store.close()

    def require_key(self, given: Annotated[str | None, Security(KEY)]) -> None:
        """Refuse who does not bring the key."""
        if not hmac.compare_digest((given or "").encode(), self.options.key.encode()):
            raise HTTPException(401, "header X-API-Key is missing or not the server's key")

    async def recommend(self, asked: RecommendRequest, request: Request) -> RecommendAnswer:
        """Return the best items for somebody now."""
        question = Asked(asked.user, tuple(asked.events), asked.k, asked.mask_history)
        answer = await asyncio.wrap_future(self.batcher.ask(question, self.options.timeout_s))
        self.metrics.answers.labels(answer.source).inc()
        self.metrics.unknown.inc(answer.unknown)
        items = [ListedItem(rank=rank, **asdict(item)) for rank, item in enumerate(answer.items, start=1)]
        return RecommendAnswer(request_id=_id(request), **{**vars(answer), "items": items})

    def events(self, told: EventsRequest, request: Request) -> EventsAnswer:
        """Keep what somebody did; once this has answered, it is not lost."""
        known = [item for item in told.events if item in self.recommender.served.catalogue.number]
        number = self.store.append(told.user, known) if known else 0
        unknown = len(told.events) - len(known)
        self.metrics.events.inc(len(known))
        self.metrics.unknown.inc(unknown)
        return EventsAnswer(request_id=_id(request), kept=len(known), unknown=unknown, number=number)

    def explain(
        self, user: Annotated[Name, Query()], request: Request, item: Annotated[Name | None, Query()] = None
    ) -> ExplainAnswer:
        """Return what was thought about somebody, and how it speaks for an item."""
        text = self.store.get([user]).get(user)
        if text is None:
            raise HTTPException(404, "nothing was thought about this user yet")
        ahead, served = Ahead.of(text), self.recommender.served
        number = served.catalogue.number.get(item) if item is not None else None
        if item is not None and number is None:
            raise HTTPException(404, "this item is not in the catalogue")
        codes = None if number is None else served.catalogue.codes.table[number - 1].tolist()
        history = len(served.history(user)) + len(served.catalogue.known(self.store.events([user])[user]))
        return ExplainAnswer(
            request_id=_id(request), user=user, thought_at=ahead.at, events=ahead.events,
            new_events=history - ahead.events,
            thoughts=[
                ExplainedThought(
                    words=one.words, scores=one.scores, leads_to_item=_leads(one.prefixes, one.scores, codes),
                    prefixes=["".join(map(spelling, range(len(prefix)), prefix)) for prefix in one.prefixes],
                )
                for one in ahead.rationales
            ],
        )  # fmt: skip

    def health(self) -> HealthAnswer:
        """Whether all is well."""
        catalogue = self.recommender.served.catalogue
        try:
            version = self.store.current()
            status, thoughts = "ok", version.number if version else None
        except StoreError:
            status, thoughts = "degraded", None
        return HealthAnswer(
            status=status, model=self.recommender.version, thoughts=thoughts, catalogue=catalogue.digest,
            items=len(catalogue.names), waiting=len(self.batcher),
        )  # fmt: skip

    def metrics_text(self) -> Response:
        """Numbers for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _leads(prefixes: list[list[int]], scores: list[float], codes: list[int] | None) -> float | None:
    if codes is None:
        return None
    return next((s for prefix, s in zip(prefixes, scores, strict=True) if codes[: len(prefix)] == prefix), None)


def _id(request: Request) -> str:
    return request.state.request_id


def _refused(request: Request, why: Exception) -> JSONResponse:
    """Every refusal in the same words; nothing of the request is said again, whatever it holds."""
    status, error, again = 500, "", {}
    if isinstance(why, NotServed):
        status, error, again = why.status_code, str(why.detail), dict(why.headers or {})
    elif isinstance(why, RequestValidationError):
        status = 422
        error = "; ".join(f"{'.'.join(map(str, one['loc']))[:100]}: {one['msg']}" for one in why.errors()[:5])
    elif isinstance(why, FullError):
        status, error, again = 429, "too many requests are waiting; ask again in a second", {"Retry-After": "1"}
    elif isinstance(why, ClosedError):
        status, error = 503, "the server is stopping"
    elif isinstance(why, TimeoutError):
        status, error, again = 504, "no list could be made in time; ask again", {"Retry-After": "1"}
    else:
        log.warning("the store does not answer: %s", why)
        status, error, again = 503, "the store does not answer; nothing was kept, ask again", {"Retry-After": "1"}
    error = error.encode("utf-8", "replace").decode()
    return JSONResponse({"request_id": _id(request), "error": error}, status, headers=again)
