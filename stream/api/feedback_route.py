"""The route that takes feedback."""

from typing import Annotated, Any

from litestar import Request, Response, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, JSONBody

from stream.api.api_keys import Scope
from stream.api.callers import Caller
from stream.api.context import WRITING, IdempotencyKey, UsesApi, problems
from stream.api.door import BEACON, SCOPE, USER, USER_TOKEN_HEADER
from stream.api.feedback import FeedbackAnswer, FeedbackBody, Known, feedback_results, outgoing_feedback, refuse_actions
from stream.api.ingest import Clock
from stream.api.user_tokens import UserToken
from stream.api.visitors import refuse_foreign_users


@post(
    "/v1/feedback",
    status_code=202,
    opt={SCOPE: (Scope.FEEDBACK, Scope.WRITE, Scope.PUBLIC), USER: True, BEACON: True},
    responses={
        207: ResponseSpec(FeedbackAnswer, generate_examples=False, description="Some failed."),
        **problems(*WRITING, 411, 422),
    },
    summary="Say what was shown and answered",
)
async def feedback(
    api: UsesApi,
    request: Request[Any, Caller | UserToken, Any],
    data: JSONBody[FeedbackBody],
    idempotency_key: IdempotencyKey = None,
    user_token: Annotated[
        str | None,
        HeaderParameter(name=USER_TOKEN_HEADER, description="With a public key: the token of the user who was shown it."),
    ] = None,
) -> Response[FeedbackAnswer]:
    """What users were shown and how they answered. 202: Kafka has all; 207: some failed, send those again as they were.

    `accepted` and `rejected` need a secret key with the scope `feedback`. `dismissed` needs it or the user's own token. `shown` and
    `selected` come also with the scope `write`, or with a public key for ids of `POST /v1/visitors`. A page that closes sends
    text/plain, with key and token in `credentials`.
    """
    del user_token  # the door has read it
    caller = request.auth
    if isinstance(caller, Caller):
        await refuse_foreign_users(caller, (event.user_id for event in data.events), api.signer, api.service)
    refuse_actions(caller, data.events)
    clock = Clock(api.service.clock_ms(), api.max_ahead_ms, api.times)
    lists = await api.service.last_lists({event.user_id for event in data.events})
    known = Known(lists, api.service.served, api.service.current.catalogue)
    is_trusted = isinstance(caller, Caller) and not caller.is_public
    sent = outgoing_feedback(data, idempotency_key, clock, known, is_trusted=is_trusted)
    took = await api.send(sent)
    return Response(FeedbackAnswer(feedback_results(data, clock, sent, took)), status_code=202 if all(took) else 207)
