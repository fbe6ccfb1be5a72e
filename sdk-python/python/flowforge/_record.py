"""What a logging record says: its level, its text, its fields."""

import json
import logging
from typing import Any

_PLAIN = logging.makeLogRecord({}).__dict__
MARK = "_flowforge"
_STANDARD = frozenset(_PLAIN) | {"message", "asctime", "taskName", MARK}
PLAIN_LEN = len(_PLAIN)
TRACEBACKS = logging.Formatter()
_DEEPEST_REPR = 10_000


def severity(levelno: int) -> int:
    """OpenTelemetry's number for a level of Python's."""
    if levelno >= logging.ERROR:
        return 21 if levelno >= logging.CRITICAL else 17
    if levelno >= logging.INFO:
        return 13 if levelno >= logging.WARNING else 9
    return 5 if levelno >= logging.DEBUG else 1


def plain_text(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - see above
        return f"{safe_repr(record.msg)} {safe_repr(record.args)}"


def fields(record: logging.LogRecord) -> str | None:
    """Everything beside the message, as a JSON object."""
    values = record.__dict__
    extras: dict[str, Any] = {str(key): values[key] for key in values.keys() - _STANDARD}
    for reserved in ("logger", "thread"):
        if reserved in extras:
            extras[f"extra.{reserved}"] = extras.pop(reserved)
    if record.exc_info and record.exc_info[0] is not None:
        kind, error, _ = record.exc_info
        extras["exception"] = {"type": f"{kind.__module__}.{kind.__qualname__}", "message": safe_str(error)}
    if not extras:
        return None
    try:
        return json.dumps(extras, default=safe_repr, ensure_ascii=False, allow_nan=False, skipkeys=True)
    except Exception:  # noqa: BLE001 - what json does not know, and whatever an object of the program raises
        return json.dumps({key: safe_repr(value) for key, value in extras.items()}, ensure_ascii=False)


def safe_repr(value: object) -> str:
    try:
        return repr(value)[:_DEEPEST_REPR]
    except Exception:  # noqa: BLE001 - a broken __repr__
        return f"<{type(value).__name__}>"


def safe_str(value: object) -> str:
    try:
        return str(value)[:_DEEPEST_REPR]
    except Exception:  # noqa: BLE001 - a broken __str__
        return f"<{type(value).__name__}>"
