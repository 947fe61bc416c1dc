"""What requests and answers of the server look like; a request that does not is refused before anything is done."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, create_model

MOST_EVENTS = 1000  # of one request
MOST_SESSION = 200
LENGTH = "length of the list, at most the beams of an answer"
# no control characters: nothing that is called so can be in a data set, and logs stay readable
Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]


# 5.0 is a whole number to JSON
Whole = Annotated[
    int, BeforeValidator(lambda told: int(told) if isinstance(told, float) and told.is_integer() else told)
]


class Request(BaseModel):
    """Nothing is taken for another type, and no key is ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)


class RecommendRequest(Request):
    """Who wants a list."""

    user: Name | None = Field(None, description="raw user id; none = this request alone says what is known")
    events: list[Name] = Field(
        default_factory=list, max_length=MOST_SESSION,
        description="raw item ids of what they did just now, oldest first; not kept",
    )  # fmt: skip
    k: Whole = Field(10, ge=1, description=LENGTH)
    mask_history: bool | None = Field(None, description="leave out what the history holds; none = as evaluated")


def recommend_request(longest: int) -> type[RecommendRequest]:
    """The request of a server whose lists have ``longest`` items at most, which its documents say."""
    k = Field(min(10, longest), ge=1, le=longest, description=LENGTH)
    return create_model("RecommendRequest", __base__=RecommendRequest, __doc__=RecommendRequest.__doc__, k=(Whole, k))


class ListedItem(BaseModel):
    """One place of a list."""

    rank: int
    item: str
    title: str
    score: float | None = Field(description="log-probability by the direct model; none for what is popular")
    thought: int | None = Field(description="place in rationales of the thought that speaks most for it; none = none")


class RecommendAnswer(BaseModel):
    """A list, and where it comes from."""

    request_id: str
    items: list[ListedItem]
    source: str = Field(description="ahead = guided by cached thoughts; direct; session; popular")
    rationales: list[str] = Field(description="what was thought ahead of time, items by title")
    thought_at: float | None = Field(description="when, seconds since 1970")
    events: int = Field(description="length of the history that was answered after")
    unknown: int = Field(description="items of the request that are not in the catalogue")
    model: int = Field(description="version of the direct model; 0 = the run's own weights")


class EventsRequest(Request):
    """What somebody did."""

    user: Name
    events: list[Name] = Field(min_length=1, max_length=MOST_EVENTS, description="raw item ids, oldest first")


class EventsAnswer(BaseModel):
    """What of it is kept, for good."""

    request_id: str
    kept: int
    unknown: int = Field(description="items that are not in the catalogue, which are not kept")
    number: int = Field(description="of the last event that was kept, 0 = none was; events are ordered by it")


class ExplainedThought(BaseModel):
    """One thought, and what it lets items begin with."""

    words: str
    prefixes: list[str] = Field(description="as itemic tokens, best first")
    scores: list[float]
    leads_to_item: float | None = Field(
        description="log-probability of the item's first codes; none = does not lead there"
    )


class ExplainAnswer(BaseModel):
    """What was thought about somebody."""

    request_id: str
    user: str
    thought_at: float
    events: int = Field(description="length of the history that was thought about")
    new_events: int = Field(description="events since")
    thoughts: list[ExplainedThought]


class HealthAnswer(BaseModel):
    """How the server is."""

    status: str = Field(description="ok, or degraded: the store does not answer, lists are made without it")
    model: int
    thoughts: int | None = Field(description="version of the thoughts that are read")
    catalogue: str
    items: int
    waiting: int


class Refused(BaseModel):
    """Why there is no answer."""

    request_id: str
    error: str
