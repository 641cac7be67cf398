"""What can go wrong, as classes: each message says what was wrong, what is allowed and what to do."""


class TipslibError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidInput(TipslibError, ValueError):
    """A parameter, profile, name or value that is not allowed; nothing was computed."""


class CorruptFile(TipslibError):
    """A file whose checksum or structure is wrong; it is named, and never believed."""


class MissingData(TipslibError):
    """A data set that is neither prepared, embedded nor to be downloaded here."""


class StorageError(TipslibError):
    """A folder that cannot be written (read-only, full, or lost); nothing half-written stays behind."""


class TracingError(TipslibError):
    """A network whose graph cannot be read; the message names the place and the way out."""


def require(condition: bool, message: str) -> None:
    """Raise `InvalidInput(message)` unless `condition` holds."""
    if not condition:
        raise InvalidInput(message)
