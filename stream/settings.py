"""Every setting, declared once. Values come from `isthmus.toml` in the working directory (or ISTHMUS_CONFIG), and from ISTHMUS_*
variables, which win over the file.

`ISTHMUS_KAFKA__BOOTSTRAP` is `bootstrap` of section `[kafka]`. Only the command line reads them, once. An unknown name in the file
is an error; an unknown variable has no effect and is named (`stream.variables`).
"""

import os
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, get_args

from pydantic import (
    AfterValidator,
    Field,
    PastDate,
    SecretStr,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from stream.application import DEFAULT as DEFAULT_APPLICATION
from stream.application import checked_name, own_folder, own_names, own_url
from stream.connection_settings import CACHE, KafkaSettings, LocalPath, SchemaRegistrySettings, Section
from stream.core.event_times import TimeUnit
from stream.core.events import INPUTS, Item, ValueFormat
from stream.errors import IsthmusError
from stream.process_settings import (
    ApiSettings,
    DeadLetterSettings,
    DeliverySettings,
    EncoderSettings,
    FeedbackSettings,
    HealthSettings,
    PostgresSettings,
    RegistrySettings,
    StepSettings,
    TrainingSettings,
    WebhookSettings,
    WorkerSettings,
)
from stream.setting_errors import lines_of, not_json, read_file
from stream.variables import FROM_FILE, PREFIX, contents_of_files, unread_variables

_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    **{row.role: row.event_type.__struct_encode_fields__ for row in INPUTS},
    "items": Item.__struct_encode_fields__,
}
"""Our fields of each input, which a mapping may name."""


if TYPE_CHECKING:  # mypy cannot see the fields of a created model

    class _InputNames(Section):
        """The input topics that code names one by one."""

        clicks: str = ""
        transcripts: str = ""
        encoded_calls: str = ""
        purchases: str = ""
        erasures: str = ""
        feedback: str = ""

    class _InputMappings(Section):
        """Read through `MappingSettings.of`."""

    class _InputFormats(Section):
        """Read through `FormatSettings.of`."""

    class _InputTimes(Section):
        """Read through `TimeSettings.unit_of` and `TimeSettings.earliest_of`."""
else:
    _MAPPING = Field(default_factory=dict, description="our field = JMESPath expression over the producer's JSON")

    def _name(row: Any) -> Any:
        return Field(row.default_name, description=f"input topic of {row.role.replace('_', ' ')}")

    def _format(role: str) -> Any:
        return Field(ValueFormat.JSON, description=f"format of the values of {role}: {', '.join(ValueFormat)}")

    def _unit(role: str) -> Any:
        return Field(TimeUnit.MILLISECONDS, description=f"unit of integer times of {role}: s, ms, us or ns since 1970")

    def _earliest(row: Any) -> Any:
        lowest = _FEBRUARY_1970 if row.earliest > _FEBRUARY_1970 else date.min
        return Field(row.earliest, ge=lowest, description=f"{row.role} before this day (UTC), or in January 1970, are dead letters")

    _OWN_INPUTS = [row for row in INPUTS if not row.is_derived]
    _FEBRUARY_1970 = date(1970, 2, 1)
    _InputNames = create_model("_InputNames", __base__=Section, **{row.role: (str, _name(row)) for row in INPUTS})
    _InputMappings = create_model(
        "_InputMappings",
        __base__=Section,
        **dict.fromkeys((*(row.role for row in _OWN_INPUTS), "items"), (dict[str, str], _MAPPING)),
    )
    _InputFormats = create_model(
        "_InputFormats",
        __base__=Section,
        **{role: (ValueFormat, _format(role)) for role in (*(row.role for row in _OWN_INPUTS), "items")},
    )
    _InputTimes = create_model(
        "_InputTimes",
        __base__=Section,
        **{f"{row.role}_unit": (TimeUnit, _unit(row.role)) for row in _OWN_INPUTS},
        items_unit=(TimeUnit, _unit("items")),
        **{f"{row.role}_earliest": (PastDate, _earliest(row)) for row in _OWN_INPUTS},
    )


class TopicSettings(_InputNames):
    """Topic names: those of the inputs (`stream.core.events.INPUTS`), then the others."""

    items: str = Field("items", description="topic of the catalogue: items by item id")
    encoded_items: str = Field("encoded-items", description="topic of the vectors of the items' texts, by item id")
    models: str = Field("models", description="topic of announcements: the model version in each role")
    recommendations: str = Field("recommendations", description="topic of the newest list of each user")
    training_examples: str = Field("training-examples", description="topic of the newest training example of each purchase")
    dead_letters: str = Field("dead-letters", description="topic of events that could not be used")
    replayed: str = Field(
        "replayed-dead-letters", description="topic of the dead letters that `isthmus dead-letters replay` has sent"
    )
    flat_recommendations: str = Field(
        "flat-recommendations", description="topic of the newest list of each user as flat Avro, one record a rank; see topics.flat"
    )
    flat: bool = Field(
        False,
        description="whether lists are sent to flat_recommendations too; their schemas are registered in schema_registry.url",
    )
    api_keys: str = Field("api-keys", description="topic of the API's keys: hashes only")
    applications: str = Field(
        "isthmus-applications",
        description="topic that says which application owns what: one for the cluster, the same for all its applications",
    )
    partitions: int = Field(8, ge=1, le=1024, description="partitions of every topic keyed by user; cannot be changed later")

    def name_of(self, role: str) -> str:
        """The topic that plays a role, by the name of its setting."""
        name: str = getattr(self, role)
        return name


_SHARED: Final = {"items", "applications", *(row.role for row in INPUTS if not row.is_derived)}
OWN_TOPICS: Final = tuple(
    (role, field.default) for role, field in TopicSettings.model_fields.items() if field.annotation is str and role not in _SHARED
)
"""The topics that Isthmus itself writes: role and default name. The others are inputs, which applications may share."""


class MappingSettings(_InputMappings):
    """Field mappings of the inputs that come from other producers, by role."""

    def of(self, role: str) -> dict[str, str]:
        """Returns the field mapping of an input topic; empty if its producer uses our field names."""
        fields: dict[str, str] = getattr(self, role)
        return fields

    @model_validator(mode="after")
    def _names_our_fields(self) -> Self:
        for role in type(self).model_fields:
            unknown = sorted(set(self.of(role)) - set(_FIELDS[role]))
            if unknown:
                raise ValueError(f"{role} have no field {unknown[0]!r}: one of {', '.join(_FIELDS[role])}")
        return self


class FormatSettings(_InputFormats):
    """Formats of the inputs' values, by role."""

    def of(self, role: str) -> ValueFormat:
        """Returns the format of an input topic."""
        found: ValueFormat = getattr(self, role)
        return found


class TimeSettings(_InputTimes):
    """Units and plausible times of the inputs, by role."""

    def unit_of(self, role: str) -> TimeUnit:
        """Returns the unit in which the producer of a topic writes integer times."""
        unit: TimeUnit = getattr(self, f"{role}_unit")
        return unit

    def earliest_of(self, role: str) -> date:
        """Returns the day (UTC) from which on the events of an input topic are plausible."""
        earliest: date = getattr(self, f"{role}_earliest")
        return earliest


class Settings(BaseSettings):
    """All sections. The defaults run on one machine."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="ISTHMUS_", env_nested_delimiter="__")

    application: Annotated[str, AfterValidator(checked_name)] = Field(
        DEFAULT_APPLICATION,
        description="name of the application: begins the names of all that it owns on the cluster, and of its folders; each of "
        "several applications on one cluster has its own",
    )
    host: str | None = Field(None, description="this machine's name, in default names and messages; unset: its host name")
    cache_dir: LocalPath = Field(CACHE, description="folder of text models and other files that can be rebuilt")
    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    step: StepSettings = StepSettings()
    formats: FormatSettings = FormatSettings()
    schema_registry: SchemaRegistrySettings = SchemaRegistrySettings()
    mapping: MappingSettings = MappingSettings()
    times: TimeSettings = TimeSettings()
    delivery: DeliverySettings = DeliverySettings()
    feedback: FeedbackSettings = FeedbackSettings()
    worker: WorkerSettings = WorkerSettings()
    encoder: EncoderSettings = EncoderSettings()
    api: ApiSettings = ApiSettings()
    postgres: PostgresSettings = PostgresSettings()
    webhook: WebhookSettings = WebhookSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    health: HealthSettings = HealthSettings()
    registry: RegistrySettings = RegistrySettings()
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="before")
    @classmethod
    def _name_after_application(cls, given: Any) -> Any:
        """Fills in the names that are not set; a named topic, group or schema keeps its name."""
        try:
            name = checked_name(given.get("application", DEFAULT_APPLICATION))
        except (TypeError, ValueError):
            return given  # the field itself is refused
        if name == DEFAULT_APPLICATION:
            return given
        return {**given, **{section: _filled(given.get(section), names) for section, names in names_after(name).items()}}

    @property
    def worker_state_dir(self) -> Path:
        """`worker.state_dir`, of this application."""
        return own_folder(self.worker.state_dir, self.application)

    @property
    def api_state_dir(self) -> Path:
        """`api.state_dir`, of this application."""
        return own_folder(self.api.state_dir, self.application)

    @property
    def registry_folder(self) -> str:
        """`registry.folder`, of this application."""
        return own_url(self.registry.folder, self.application)

    @property
    def announced_by(self) -> str:
        """The application whose announced models are read."""
        return self.registry.announced_by or self.application

    @property
    def trusted_folders(self) -> tuple[str, ...]:
        """`registry.trusted_folders`; where none is set, the folder of the application whose models are read, and our own."""
        read = own_url(self.registry.folder, self.announced_by)
        return self.registry.trusted_folders or tuple(dict.fromkeys((read, self.registry_folder)))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        unread = {name.lower() for name in unread_variables(os.environ, variables())}
        if isinstance(env_settings, EnvSettingsSource):
            files = {f"{name}{FROM_FILE}".lower() for name in secret_variables()}
            read = {name: value for name, value in env_settings.env_vars.items() if name.lower() not in unread | files}
            secrets = contents_of_files(os.environ, secret_variables())
            env_settings.env_vars = {**read, **{name.lower(): value for name, value in secrets.items()}}
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())


def names_after(name: str) -> dict[str, dict[str, str]]:
    """What is named after the application `name` unless it is set, by section and key."""
    return own_names(name, OWN_TOPICS)


def _filled(given: Any, names: dict[str, str]) -> Any:
    """A section with names in the places that are not set; what is no section stays, to be refused."""
    if isinstance(given, Section):
        return given.model_copy(update={key: name for key, name in names.items() if key not in given.model_fields_set})
    return {**names, **(given or {})} if isinstance(given, dict | None) else given


def config_file() -> Path:
    return Path(os.environ.get("ISTHMUS_CONFIG", "isthmus.toml"))


def variables() -> list[str]:
    """Returns the variable of every setting, section and field of a mapping."""
    found = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        keys = section.model_fields if isinstance(section, type) and issubclass(section, Section) else {}
        fields = [f"{key}__{ours}" for key in keys for ours in _FIELDS[key]] if section is MappingSettings else []
        found += [name, *(f"{name}__{key}" for key in (*keys, *fields))]
    return [*(f"{PREFIX}{name}".upper() for name in found), *(f"{name}{FROM_FILE}" for name in secret_variables())]


def secret_variables() -> list[str]:
    """Returns the variables of the secrets; with `_FILE` after its name, each one names a file with the secret."""
    sections = {name: field.annotation for name, field in Settings.model_fields.items()}
    return [
        f"{PREFIX}{name}__{key}".upper()
        for name, section in sections.items()
        if isinstance(section, type) and issubclass(section, Section)
        for key, field in section.model_fields.items()
        if SecretStr in (field.annotation, *get_args(field.annotation))
    ]


def load(**sections: Any) -> Settings:
    """Reads the settings; values in `sections` win over file and environment.

    Raises:
        IsthmusError: a value is invalid; the message names the setting, its variable and what was expected.
    """
    if "ISTHMUS_CONFIG" in os.environ and not config_file().is_file():
        raise IsthmusError(f"ISTHMUS_CONFIG names {config_file()}, which is no file: correct or unset it")
    read_file(config_file())
    try:
        return Settings(**sections)
    except ValidationError as error:
        raise IsthmusError("\n".join(lines_of(error, config_file(), _names(), {}))) from None
    except SettingsError as error:
        raise IsthmusError("\n".join(not_json(Settings.model_fields)) or str(error)) from None


def _names() -> list[str]:
    """The dotted names of all settings."""
    found = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        keys = section.model_fields if isinstance(section, type) and issubclass(section, Section) else {}
        found += [f"{name}.{key}" for key in keys] or [name]
    return found


def with_changes(settings: Settings, section: str, **changes: object) -> Settings:
    """Returns the settings with some values of a section replaced; None leaves a value as it is.

    Raises:
        IsthmusError: a value is invalid; the message names the setting, and the command line option of the same name.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if not given:
        return settings
    old = getattr(settings, section)
    try:
        changed = type(old)(**{**{name: getattr(old, name) for name in type(old).model_fields}, **given})
    except ValidationError as error:
        options = {f"{section}.{name}": f"--{name.replace('_', '-')}" for name in given}
        raise IsthmusError("\n".join(lines_of(error, config_file(), _names(), options, section))) from None
    return settings.model_copy(update={section: changed})


def leaves(settings: Settings) -> list[tuple[str, str, str]]:
    """Returns (dotted name, value as text, origin) of every setting, with secrets hidden."""
    environment = {name.upper() for name in os.environ}
    file = read_file(config_file())
    named = {} if settings.application == DEFAULT_APPLICATION else names_after(settings.application)
    rows = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        inner = (
            {f"{name}.{key}": getattr(value, key) for key in type(value).model_fields}
            if isinstance(value, Section)
            else {name: value}
        )
        for dotted, leaf in inner.items():
            variable = "ISTHMUS_" + dotted.replace(".", "__").upper()
            section, _, key = dotted.partition(".")
            from_file = section in file and (not key or key in file[section])
            variable = f"{variable}{FROM_FILE}" if f"{variable}{FROM_FILE}" in environment else variable
            unset = "application" if key in named.get(section, {}) else "default"
            origin = variable if variable in environment else str(config_file()) if from_file else unset
            rows.append((dotted, str(leaf), origin))
    return rows
