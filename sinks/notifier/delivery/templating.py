"""Message texts: one jinja2 template for each kind of event, with the title in its first line. A folder may replace any of them.

Templates are checked at the start: each must parse and use only the fields of its kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from zoneinfo import ZoneInfo

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, meta
from jinja2.sandbox import SandboxedEnvironment

from schemas import catalogue
from sinks.notifier.rules.config import ConfigError
from sinks.notifier.rules.events import KINDS, OWN_FIELDS, Event, Level
from sinks.notifier.rules.origin import LABELS
from sinks.notifier.rules.policy import shown_time

ENDING = ".j2"
# Fields of every template besides those of its record.
COMMON = ("event_kind", "level", "event_id")
# Titles become subjects and lines of digests.
TITLE_LIMIT = 200


@dataclass(frozen=True)
class Message:
    """A rendered message.

    Attributes:
        event: The event.
        origin: Origin of its data (``rules.origin``).
        bare_title: Title without the origin's label.
        title: Title with the label.
        body: Text.
    """

    event: Event
    origin: str
    bare_title: str
    title: str
    body: str


class Templates:
    """All templates, checked.

    Args:
        zone: Time zone of the times in messages.
        folder: Replacements by name; None: none.

    Raises:
        ConfigError: a template does not parse, uses an unknown field, or is not named after a kind.
    """

    def __init__(self, zone: ZoneInfo, folder: Path | None = None) -> None:
        self._environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
        filters: dict[str, Callable[..., str]] = {"number": shown_number, "time": lambda ms: shown_time(ms, zone)}
        self._environment.filters.update(filters)
        self._templates: dict[str, Template] = {}
        built_in = resources.files(__package__) / "templates"
        for kind in KINDS:
            name = f"{kind}{ENDING}"
            self._templates[kind] = self._checked(kind, (built_in / name).read_text(encoding="utf-8"), name)
        if folder is not None:
            self._replace(folder)

    def _replace(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(f"templates: {folder} is no folder")
        for path in sorted(folder.glob(f"*{ENDING}")):
            if path.stem not in KINDS:
                raise ConfigError(f"templates: {path}: there is no kind {path.stem!r}; there are {', '.join(KINDS)}")
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"templates: {path}: {error}") from error
            self._templates[path.stem] = self._checked(path.stem, text, str(path))

    def _checked(self, kind: str, text: str, where: str) -> Template:
        topic = KINDS[kind]
        fields = set(OWN_FIELDS[kind]) if topic is None else set(catalogue.field_names(topic))
        try:
            unknown = meta.find_undeclared_variables(self._environment.parse(text)) - fields - set(COMMON)
            template = self._environment.from_string(text)
        except TemplateSyntaxError as error:
            raise ConfigError(f"templates: {where}: line {error.lineno}: {error.message}") from error
        if unknown:
            raise ConfigError(f"templates: {where}: no field {', '.join(sorted(unknown))}; there are {', '.join(sorted(fields))}")
        if not text.strip():
            raise ConfigError(f"templates: {where}: is empty")
        return template

    def render(self, event: Event, origin: str) -> Message:
        """Return the message of an event. If its template fails, the message says so and lists the fields."""
        common = {"event_kind": event.kind, "level": event.level.name.lower(), "event_id": event.event_id}
        try:
            text = self._templates[event.kind].render({**event.fields, **common})
        except (TemplateError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
            shown = "\n".join(f"{name}: {value}" for name, value in event.fields.items() if not isinstance(value, bytes))
            text = f"{event.kind} {event.instrument or ''}\ntemplate {event.kind}{ENDING} fails: {type(error).__name__}: {error}\n{shown}"
        first, _, rest = text.strip().partition("\n")
        bare = re.sub(r"\s+", " ", "".join(sign if sign.isprintable() else " " for sign in first)).strip()[:TITLE_LIMIT] or event.kind
        before, line = LABELS[origin]
        if event.level == Level.CRITICAL:
            before = f"{before}CRITICAL "
        body = rest.strip()
        return Message(event, origin, bare, before + bare, f"{line}\n{body}" if line and body else line or body)


def shown_number(value: float | int | None) -> str:
    """Return a number in its shortest form without an exponent, with thousands separators; ``-`` for none."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:,.12f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
