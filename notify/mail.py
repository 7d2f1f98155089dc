"""E-mails: the message of a delivery, and the SMTP server that takes it."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP as FORMAT
from email.utils import format_datetime
from zoneinfo import ZoneInfo

import aiosmtplib

from engine.config import Notify
from notify.attempts import Drop, Failure, Reason
from notify.deliveries import Delivery
from notify.wording import Wording

PASSWORD_VARIABLE = "RENVOI_SMTP_PASSWORD"  # keeps it out of files
_HOUR_S = 3600.0
_MOST_ADDRESSES = 50_000
_AT_ONCE = 4
"""Connections to the SMTP server."""


class Mailer:
    """Sends e-mails through one SMTP server, on a connection each.

    Args:
        zone: of the times in messages.
        context: of TLS to the server.
        password: of `notify.smtp_user`.
    """

    def __init__(
        self,
        settings: Notify,
        zone: ZoneInfo,
        country: str,
        context: ssl.SSLContext,
        password: str | None,
    ) -> None:
        self._settings = settings
        self._wording = Wording(zone, country)
        self._context = context
        self._password = password
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._sent: dict[str, deque[float]] = {}

    @property
    def is_on(self) -> bool:
        """Whether an SMTP server is configured."""
        return self._settings.smtp_host is not None

    def why_not(self, address: str) -> Drop | None:
        """Why no e-mail is sent to the address now."""
        if not self.is_on:
            return Drop.OFF
        times = self._sent.get(address)
        while times and times[0] < time.monotonic() - _HOUR_S:
            times.popleft()
        full = times is not None and len(times) >= self._settings.mails_per_hour
        return Drop.RATE if full else None

    def message(self, delivery: Delivery) -> EmailMessage:
        """The message. Its Message-ID is the same at each attempt."""
        sender = self._settings.mail_from or "renvoi@localhost"
        subject, text = self._wording.of(delivery)
        message = EmailMessage(FORMAT)
        message["From"] = f"Renvoi <{sender}>"
        message["To"] = delivery.target
        message["Subject"] = subject
        message["Date"] = format_datetime(datetime.fromtimestamp(delivery.at, UTC))
        message["Message-ID"] = f"<{delivery.id}@{sender.rpartition('@')[2]}>"
        message["Content-Language"] = delivery.language
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence answers it
        message["X-Renvoi-Event"] = delivery.event
        message.set_content(text)
        return message

    async def send(self, delivery: Delivery) -> None:
        """Hand it to the server. Raises Failure."""
        settings = self._settings
        assert settings.smtp_host is not None
        message, sender = self.message(delivery), settings.mail_from or ""
        try:
            async with self._gate, asyncio.timeout(settings.timeout_s):
                await aiosmtplib.send(
                    message,
                    sender=sender,
                    recipients=[delivery.target],
                    hostname=settings.smtp_host,
                    port=settings.smtp_port,
                    username=settings.smtp_user,
                    password=self._password if settings.smtp_user is not None else None,
                    use_tls=settings.smtp_security == "tls",
                    start_tls=settings.smtp_security == "starttls",
                    tls_context=None if settings.smtp_security == "none" else self._context,
                    timeout=settings.timeout_s,
                )
        except TimeoutError:
            raise Failure(Reason.TIMEOUT, f"no answer in {settings.timeout_s:g} s") from None
        except aiosmtplib.SMTPRecipientsRefused as error:
            refused = error.recipients[0]
            text = f"{refused.code} {refused.message}"
            raise Failure(Reason.SMTP, text, final=refused.code >= 500) from None
        except aiosmtplib.SMTPResponseException as error:
            # A refusal of the data is one of this message; one of the server's password is not.
            final = isinstance(error, aiosmtplib.SMTPDataError) and error.code >= 500
            raise Failure(Reason.SMTP, f"{error.code} {error.message}", final=final) from None
        except aiosmtplib.SMTPException as error:
            reason = _reason(error)
            raise Failure(reason, str(error) or type(error).__name__) from None
        except ssl.SSLError as error:
            raise Failure(Reason.TLS, error.reason or "TLS failed") from None
        except OSError as error:
            raise Failure(Reason.CONNECTION, error.strerror or str(error)) from None
        self._note(delivery.target)

    def _note(self, address: str) -> None:
        if len(self._sent) >= _MOST_ADDRESSES and address not in self._sent:
            self._sent.pop(next(iter(self._sent)))
        self._sent.setdefault(address, deque()).append(time.monotonic())


def _reason(error: aiosmtplib.SMTPException) -> Reason:
    if isinstance(error, aiosmtplib.SMTPTimeoutError):
        return Reason.TIMEOUT
    if isinstance(error.__cause__, ssl.SSLError):
        return Reason.TLS
    if isinstance(error, aiosmtplib.SMTPConnectError | aiosmtplib.SMTPServerDisconnected):
        return Reason.CONNECTION
    return Reason.SMTP
