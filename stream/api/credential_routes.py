"""The routes that make credentials: user tokens, and ids of anonymous visitors."""

from litestar import post
from litestar.params import JSONBody

from stream.api.api_keys import Scope
from stream.api.bodies import (
    IssuedToken,
    TokenBody,
    Visitor,
    VisitorBody,
)
from stream.api.context import (
    WRITING,
    Api,
    UsesApi,
    problems,
)
from stream.api.door import SCOPE
from stream.api.ingest import check_user_id
from stream.api.problems import ApiError
from stream.api.user_tokens import UserToken, sign_token
from stream.api.visitors import is_visitor_id, new_visitor_id


@post("/v1/tokens", status_code=201, opt={SCOPE: Scope.TOKENS}, responses=problems(*WRITING), summary="Make a user token")
async def token(api: UsesApi, data: JSONBody[TokenBody]) -> IssuedToken:
    """A token for a browser: it opens `/v1/me/...` for one user, for minutes. Make it where your site knows who the user is."""
    check_user_id(data.user_id, "user_id")
    if not api.signer.can_sign:
        raise ApiError(503, "no user tokens are made here: the setting api.token_secrets is empty")
    return _issue(api, data.user_id, min(data.lifetime_s or api.settings.token_lifetime_s, api.settings.token_lifetime_s))


def _issue(api: Api, user_id: str, lifetime_s: int) -> IssuedToken:
    now_ms = api.service.clock_ms()
    made = UserToken(user_id, now_ms, now_ms + 1_000 * lifetime_s)
    return IssuedToken(sign_token(api.signer, made), made.expires_at)


@post(
    "/v1/visitors",
    status_code=201,
    opt={SCOPE: (Scope.PUBLIC, Scope.TOKENS)},
    responses=problems(*WRITING, 410),
    summary="Make an anonymous visitor, or renew the token of one",
)
async def visitor(api: UsesApi, data: JSONBody[VisitorBody]) -> Visitor:
    """A new anonymous id and a token for it. Only ids that were issued here get another token: those of named users do not."""
    made = _visitor_id(api, data.user_id)
    if data.user_id is not None and await api.service.erased_at(made) >= 0:
        raise ApiError(410, "this visitor was erased: ask for a new id, without user_id")
    issued = _issue(api, made, api.settings.token_lifetime_s)
    return Visitor(made, issued.token, issued.expires_at)


def _visitor_id(api: Api, held: str | None) -> str:
    if not api.signer.can_sign:
        raise ApiError(503, "no visitor ids are made here: the setting api.token_secrets is empty")
    if held is None:
        return new_visitor_id(api.signer)
    if not is_visitor_id(held, api.signer):
        raise ApiError(403, "this id was not issued here: ask for a new one, without user_id")
    return held
