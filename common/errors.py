"""The one error tree. The class decides what happens to the message that caused it (DESIGN.md, section 6).

    QigError
    ├── Rejected      the data is wrong: dead-letter it with the reason, never retry
    ├── Unavailable   a dependency is down: leave it pending, retry with backoff
    └── Corrupt       a digest, signature or invariant failed: keep the last good, alert
    anything else     a bug: crash, be redelivered, and after N deliveries be dead-lettered

`code` is a stable slug for metrics, logs and documents. The message says what, where, the value and what to do next.

>>> raise Rejected("packet_too_large", "packet of 4097 bytes; the limit is 4096: send fewer crystals")
Traceback (most recent call last):
    ...
common.errors.Rejected: packet_too_large: packet of 4097 bytes; the limit is 4096: send fewer crystals
"""


class QigError(Exception):
    """What this software raises on purpose."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Rejected(QigError):
    """Somebody else's data is wrong."""


class Unavailable(QigError):
    """A dependency is not there now and may be later. retry_after_s: when to ask again, if that is known."""

    def __init__(self, code: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s


class Corrupt(QigError):
    """Bytes are not what their digest or signature promised."""


def said(error: BaseException) -> str:
    """What an error says; its name where it says nothing, as a TimeoutError does.

    >>> said(TimeoutError()), said(TimeoutError("no reply"))
    ('TimeoutError', 'no reply')
    """
    return str(error) or type(error).__name__
