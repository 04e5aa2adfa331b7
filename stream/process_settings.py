"""Sections of the settings that know nothing of the inputs: of the step, of delivery, of each kind of process.

`stream.settings` puts them together with the others, and reads them.
"""

from ipaddress import ip_network
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from stream.connection_settings import CACHE, LocalPath, Section
from stream.core import limits
from stream.core.feedback import CHANNELS

Guarantee = Literal["at_least_once", "exactly_once"]
Declared = Annotated[str, StringConstraints(min_length=1, max_length=limits.TAG_CHARACTERS)]
SignatureAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_LONGEST_KEY_BYTES: Final = 64  # BLAKE2b, RFC 7693
_SHORTEST_KEY_BYTES: Final = 32  # of an HMAC with SHA-256: its output's size (RFC 2104, section 3)
_JWKS: Final = r"^(https://.+|http://(localhost|127\.0\.0\.1)[:/].*|[^:]+)$"


_ENDPOINT: Final = r"^(https://[^\s/@,;'\"#]+|http://(localhost|127\.0\.0\.1)(:\d+)?)(/[^\s,;'\"#]*)?$"
_OF_THE_LOG_IN: Final = frozenset(
    {
        *("response_type", "response_mode", "client_id", "redirect_uri", "scope", "state", "nonce"),
        *("code_challenge", "code_challenge_method"),
    }
)


def _network(value: str) -> str:
    ip_network(value)
    return value


def _fits_the_hash(key: SecretStr) -> SecretStr:
    if not 1 <= len(key.get_secret_value().encode(errors="surrogatepass")) <= _LONGEST_KEY_BYTES:
        raise ValueError(f"must have 1 to {_LONGEST_KEY_BYTES} bytes")
    return key


class StepSettings(Section):
    list_length: int = Field(5, ge=1, le=100, description="items in a recommendation")
    reserve_length: int | None = Field(
        None, ge=0, le=200, description="items below the list, for readers that must replace a withdrawn one; none: 2 list_length"
    )
    session_gap_s: int = Field(1_800, ge=1, description="a session ends after this long without a click")
    max_ahead_s: int = Field(300, ge=0, description="an event further ahead of its Kafka timestamp is a dead letter")
    allowed_lateness_s: int = Field(
        86_400,
        ge=0,
        description="later events are counted separately (extent=beyond), none dropped; a backfill reckons with inputs this late",
    )
    marker_retention_s: int | None = Field(
        None,
        ge=0,
        description="how long an erasure keeps old events out; none: for ever, at 60 to 180 bytes for each erased user. With a "
        "bound, what is read again or backfilled later brings erased users back",
    )
    new_items_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of a list's places for new items, which the model knows by their texts alone; a hash of user, item and "
        "day chooses among them",
    )
    explain: bool = Field(
        False,
        description="whether items have `because`: the interactions that speak for them; costs up to 22 encodings a list",
    )
    erasure_key: Annotated[SecretStr, AfterValidator(_fits_the_hash)] = Field(
        SecretStr("isthmus"),
        description="secret key of the hash that hides the user of an erasure marker; 1 to 64 bytes; set your own",
    )


class DeliverySettings(Section):
    guarantee: Guarantee = Field(
        "at_least_once",
        description="at_least_once: a list may be sent twice, with the same id; exactly_once: a list is sent in one Kafka "
        "transaction with its state and offset, for consumers that read committed records only",
    )
    session_timeout_s: float = Field(
        30, ge=1, le=300, description="after this long without a heartbeat, the partitions of a worker or encoder go to others"
    )


class WorkerSettings(Section):
    name: str | None = Field(
        None,
        description="stable name of this process, for the state directory and static membership; of two processes with one name "
        "the later one ends; unset: the host's name and the first free number",
    )
    state_dir: LocalPath = Field(CACHE / "state", description="folder of the RocksDB tables")
    metrics_port: int = Field(9101, ge=0, le=65_535, description="port of metrics and health; 0 chooses a free one")
    batch_records: int = Field(
        1_000,
        ge=1,
        le=10_000,
        description="largest number of records of a poll (max.poll.records) and of a group of batches",
    )
    in_flight: int = Field(6, ge=1, le=64, description="batches of one partition number that may be unacknowledged")
    static_membership: bool = Field(
        True, description="whether a restarted worker gets its partitions back at once; turn it off where workers scale down"
    )


class EncoderSettings(Section):
    name: str | None = Field(None, description="stable name of this process; unset: the host's name and the first free number")
    metrics_port: int = Field(9102, ge=0, le=65_535, description="port of metrics and health; 0 chooses a free one")
    text_model: LocalPath | None = Field(None, description="text model folder; unset: the packaged one, as imported by set-up")
    batch_sentences: int = Field(
        32, ge=1, le=1_024, description="sentences per run of an onnx encoder's network; in int8 it always runs one"
    )
    cached_sentences: int = Field(
        20_000, ge=0, description="how many of the last used sentences an onnx encoder remembers: about 2 kB each; 0: none"
    )
    threads: int = Field(1, ge=1, le=64, description="threads with which an onnx encoder encodes one batch")


class FeedbackSettings(Section):
    placements: tuple[Declared, ...] = Field(
        (),
        max_length=limits.PLACEMENTS,
        description="names of `placement` in feedback; others count as `other`. States store positions: new names go to the end",
    )
    channels: tuple[Declared, ...] = Field(
        CHANNELS,
        max_length=limits.CHANNELS,
        description="names of `channel` in feedback; others count as `other`. States store positions: new names go to the end",
    )
    attribution_days: float = Field(
        7, gt=0, le=365, description="a purchase counts for what was shown at most so many days before it (metrics only)"
    )


class ApiSettings(Section):
    name: str = Field("api-1", description="stable name of this replica: of its store's folder")
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0: all, behind a proxy that ends TLS")
    port: int = Field(8080, ge=0, le=65_535, description="port of the API; 0 chooses a free one")
    metrics_port: int = Field(9103, ge=0, le=65_535, description="port of metrics and health; 0 chooses a free one")
    state_dir: LocalPath = Field(
        CACHE / "api", description="folder of the RocksDB stores; they are filled from the topics where they are missing"
    )
    redis_url: SecretStr | None = Field(
        None, description="Redis server or cluster that all replicas share instead, such as rediss://user:password@host:6379/0"
    )
    redis_prefix: str = Field(
        "isthmus-api", min_length=1, description="begins the names of the keys in Redis; also the replicas' consumer group"
    )
    tls_certificate: LocalPath | None = Field(None, description="PEM file with the certificate chain; none: plain HTTP")
    tls_key: LocalPath | None = Field(
        None, description="PEM file with the certificate's key; none: it is in the certificate's file"
    )
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        (), description="addresses and networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed"
    )
    cors_origins: tuple[Annotated[str, Field(pattern=r"^https?://[^/*\s]+$")], ...] = Field(
        (), description="origins whose pages may read answers, such as https://shop.example; none: CORS is closed"
    )
    reconcile_after_s: int = Field(
        518_400,
        ge=0,
        description="a store that was away for longer is filled again; less than `delete.retention.ms` of the topics",
    )
    max_connections: int = Field(4_000, ge=1, description="open connections of this replica; else 503, and they are closed")
    max_connections_of_an_address: int = Field(
        1_000,
        ge=0,
        description="open connections of one address (of IPv6: of one /64 network) that is no trusted proxy; else 429; 0: no bound",
    )
    max_header_bytes: int = Field(32_768, ge=1_024, description="largest request line with its headers; else 431, or 414 for a URL")
    max_headers: int = Field(100, ge=10, description="headers of a request; else 431")
    header_timeout_s: float = Field(10, gt=0, description="request line and headers must have come within this time; else 408")
    max_pipelined: int = Field(
        100, ge=1, description="requests that a connection may send before the first is answered; else it is closed"
    )
    keep_alive_s: int = Field(5, ge=0, description="a connection without requests is closed after this time")
    answer_timeout_s: float = Field(
        60, gt=0, description="an answer must have been read within this time; else the connection is closed"
    )
    max_body_bytes: int = Field(1_048_576, ge=1_024, description="largest request body; else 413")
    body_timeout_s: float = Field(10, gt=0, description="a body must have come within this time; else 408")
    requests_per_s: float = Field(0, ge=0, description="per key, twice as many at once; else 429; 0: no bound")
    requests_per_s_of_a_user: float = Field(
        5, ge=0, description="requests a second with tokens of one user, four times as many at once; else 429; 0: no bound"
    )
    requests_per_s_of_an_address: float = Field(
        20,
        ge=0,
        description="requests a second with a public key from one address, four times as many at once; else 429; 0: no bound",
    )
    token_secrets: tuple[SecretStr, ...] = Field(
        (),
        description="secrets of user tokens, visitor and served ids, at least 32 bytes each: the first signs, all verify",
    )
    oidc_jwks: Annotated[str, Field(pattern=_JWKS)] | None = Field(
        None, description="URL (https) or file of an identity provider's keys (JWKS); none: no OpenID Connect tokens"
    )
    oidc_issuer: str | None = Field(None, description="the claim iss of the provider's tokens")
    oidc_audience: str | None = Field(None, description="what the claim aud of the provider's tokens must hold")
    oidc_algorithms: tuple[SignatureAlgorithm, ...] = Field(
        ("RS256", "ES256"), min_length=1, description="signature algorithms of the provider's tokens"
    )
    oidc_scope_claim: str = Field("scope", description="claim with the scopes; realm_access.roles leads into an object")
    oidc_scope_prefix: str = Field("", description="what stands before a scope of this API in the claim, such as isthmus:")
    oidc_client_id: str | None = Field(
        None, min_length=1, description="id of the agent page at the provider; none: agents cannot log in"
    )
    oidc_authorize_url: Annotated[str, Field(pattern=_ENDPOINT)] | None = Field(
        None, description="the provider's authorization endpoint (https), to which the agent page leads"
    )
    oidc_token_url: Annotated[str, Field(pattern=_ENDPOINT)] | None = Field(
        None, description="the provider's token endpoint (https), which the agent page asks; it must admit the page's origin (CORS)"
    )
    oidc_end_session_url: Annotated[str, Field(pattern=_ENDPOINT)] | None = Field(
        None,
        description="the provider's end_session_endpoint (https), where agents who log out end their session there too; none: it "
        "goes on",
    )
    oidc_login_scope: str = Field(
        "", description="what the agent page asks for; none: openid, and read and feedback with the prefix"
    )
    oidc_login_parameters: dict[str, str] = Field(
        {}, description="further parameters of the agent page's authorization request, such as audience or resource"
    )
    token_lifetime_s: int = Field(900, ge=10, le=86_400, description="longest life of a user token")
    failures_per_minute: float = Field(
        60, ge=0, description="requests without a valid key, per client address; else 429; 0: no bound"
    )
    audit_file: LocalPath | None = Field(
        None, description="file of the audit log, who opened whose profile; none: the log of the process, logger isthmus.audit"
    )
    keep_clicks: bool = Field(
        False,
        description="whether the store keeps the newest clicks of each user's last sessions, with their tags, for profiles; takes "
        "effect with a user's next event, or in a store that is filled anew",
    )
    guests: bool = Field(
        False, description="whether guests get lists (POST /v1/recommendations): the process then loads model and text model"
    )
    max_guests: int = Field(16, ge=1, description="guests that may wait for their lists; else 503")
    live: bool = Field(
        False,
        description="whether the live page / is served to keys with the scope live: the process then loads the model, and keeps "
        "tags and keywords of the users who were active last in memory",
    )
    live_metrics: tuple[Annotated[str, Field(pattern=r"^https?://[^\s]+$")], ...] = Field(
        (),
        description="URLs of the metrics of workers and encoders, such as http://worker-1:9101/metrics: the live page then shows "
        "quality, lag, dead letters and swaps",
    )
    max_streams: int = Field(2_000, ge=0, description="open event streams of this replica; else 503")
    max_streams_of_a_user: int = Field(
        20, ge=0, description="open event streams with tokens of one user, in this replica; else 429; 0: no bound"
    )
    max_streams_of_an_address: int = Field(
        100, ge=0, description="open event streams of anonymous visitors from one address, in this replica; else 429; 0: no bound"
    )
    heartbeat_s: float = Field(
        15, gt=0, description="between comments on an event stream; a client that reads nothing for two of them is disconnected"
    )
    send_timeout_s: float = Field(10, gt=0, description="for Kafka to acknowledge events; else they count as failed")
    placements: tuple[str, ...] = Field(
        (), description="further names that `placement` may have in the API, beside feedback.placements; others count as `other`"
    )

    @model_validator(mode="after")
    def _knows_whose_tokens(self) -> Self:
        if self.oidc_jwks is not None and not (self.oidc_issuer and self.oidc_audience):
            raise ValueError("oidc_jwks needs oidc_issuer and oidc_audience: else any token of the provider would do")
        return self

    @model_validator(mode="after")
    def _knows_where_agents_log_in(self) -> Self:
        needed = {name: getattr(self, name) for name in ("oidc_client_id", "oidc_authorize_url", "oidc_token_url")}
        missing = [name for name, value in needed.items() if value is None]
        if 0 < len(missing) < len(needed):
            raise ValueError(f"agents cannot log in without {' and '.join(missing)}")
        if missing and self.oidc_end_session_url is not None:
            raise ValueError("oidc_end_session_url needs oidc_client_id: nobody logs out who cannot log in")
        if not missing and self.oidc_jwks is None:
            raise ValueError("oidc_client_id needs oidc_jwks: else no token of an agent opens anything")
        own = sorted(_OF_THE_LOG_IN & self.oidc_login_parameters.keys())
        if own:
            raise ValueError(f"oidc_login_parameters must not hold {', '.join(own)}: the page sets them")
        return self


class PostgresSettings(Section):
    dsn: SecretStr = Field(
        SecretStr("postgresql://127.0.0.1/isthmus"),
        description="the database as libpq takes it: a URL, or host=... dbname=...; the rest comes from libpq's PG* variables",
    )
    db_schema: str = Field(
        "isthmus",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="schema of the sink's tables; made where it is missing",
    )
    rows: Literal["user", "rank"] = Field(
        "user",
        description="user: one row a user, the list as JSON (`recommendations`); rank: one row a user and rank "
        "(`recommended_items`)",
    )
    group: str = Field(
        "isthmus-sink-postgres", description="consumer group: processes that fill one database share it, and no others"
    )
    metrics_port: int = Field(9104, ge=0, le=65_535, description="port of metrics and health; 0 chooses a free one")
    batch_records: int = Field(5_000, ge=1, le=100_000, description="largest number of records of a transaction")
    timeout_s: float = Field(30, gt=0, description="a transaction that takes longer is given up and tried again")
    reconcile_after_s: int = Field(
        518_400,
        ge=0,
        description="a database whose position is older is filled again; less than `delete.retention.ms` of the topic",
    )


class WebhookSettings(Section):
    url: SecretStr = Field(SecretStr(""), description="where messages are posted; may hold a token, and is hidden like one")
    secrets: tuple[SecretStr, ...] = Field(
        (),
        description="signing secrets as Standard Webhooks writes them, whsec_ and the base64 of 24 to 64 bytes; each signs, "
        "so that one can be replaced",
    )
    group: str = Field("isthmus-sink-webhook", description="consumer group; it keeps the position, so each endpoint has its own")
    metrics_port: int = Field(9105, ge=0, le=65_535, description="port of metrics and health; 0 chooses a free one")
    batch_lists: int = Field(100, ge=1, le=1_000, description="largest number of lists in a message")
    timeout_s: float = Field(15, gt=0, le=45, description="for the endpoint to answer an attempt")
    first_pause_s: float = Field(1, gt=0, description="pause after the first failed attempt; it doubles each time")
    longest_pause_s: float = Field(60, gt=0, description="longest pause between attempts, also where `Retry-After` asks for more")
    give_up_s: float = Field(
        900, gt=0, description="lists that were not taken after this long become dead letters; an erasure is never given up"
    )
    reconcile_after_s: int = Field(
        518_400,
        ge=0,
        description="a sink that was away for longer sends all lists again; less than `delete.retention.ms` of the topic",
    )


class DeadLetterSettings(Section):
    stop_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="worker and encoder stop when more than this share of a topic's last records are dead letters; 1: never",
    )
    window_records: int = Field(1_000, ge=1, description="the share is taken over at least this many records")
    rare_records: int = Field(
        10, ge=1, description="records that are enough for the share if the topic took `rare_s` or longer to get them"
    )
    rare_s: int = Field(3_600, ge=1, description="how long a topic of few records must have taken for `rare_records`")


class HealthSettings(Section):
    stalled_s: int = Field(
        300, ge=10, description="/livez fails when a partition has work and its committed offset has not moved for this long"
    )
    silent_s: int = Field(30, ge=5, description="/livez fails when the event loop has been blocked for this many seconds")
    metrics_host: str = Field(
        "0.0.0.0",  # noqa: S104  (what scrapes and asks for health is on other machines)
        description="address on which every process serves metrics and health; 127.0.0.1: to this machine alone",
    )


def _long_enough(keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if any(len(key.get_secret_value().encode(errors="surrogatepass")) < _SHORTEST_KEY_BYTES for key in keys):
        raise ValueError(f"each must have at least {_SHORTEST_KEY_BYTES} bytes: `openssl rand -hex 32` makes one")
    return keys


class RegistrySettings(Section):
    uri: str = Field(f"sqlite:///{CACHE / 'registry' / 'mlflow.db'}", description="MLflow: a SQLite file, or a server's URL")
    folder: str = Field(
        str(CACHE / "registry" / "models"),
        description="folder of the model versions, which workers must be able to read: a path, or a URL that fsspec opens, such as "
        "s3://bucket/models",
    )
    trusted_folders: tuple[str, ...] = Field(
        (),
        description="folders below which models are read, paths or URLs; what an announcement or the registry names elsewhere is "
        "refused; none: `folder` alone",
    )
    max_file_bytes: int = Field(
        limits.MODEL_FILE_BYTES, ge=1 << 20, description="largest file of a model folder that is read; a larger one is refused"
    )
    max_folder_bytes: int = Field(
        limits.MODEL_FOLDER_BYTES, ge=1 << 20, description="most bytes that are read of a model folder; a larger one is refused"
    )
    announcement_keys: Annotated[tuple[SecretStr, ...], AfterValidator(_long_enough)] = Field(
        (),
        description="keys of announcements, at least 32 bytes each: the first signs, all verify, and an announcement without a "
        "valid signature is refused; none: announcements are not signed",
    )
    announced_by: str | None = Field(
        None, description="application whose announced models are read, where topics.models is another one's; none: this one"
    )


class TrainingSettings(Section):
    margin: float = Field(
        0.01, ge=0, description="how much lower the MAP@3 of the champion's configuration may be after training on fresher data"
    )
    min_judged: int = Field(200, ge=1, description="fresh purchase events that the gate needs")
    seed: int = Field(0, ge=0, description="seed of training")
