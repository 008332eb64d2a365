"""What can go wrong with a model, drawn for the one who catches it. A docstring is what a person may see."""

from __future__ import annotations

import inspect


class LLMError(Exception):
    """The model could not answer."""

    retryable = False  #: worth another try of the same request, before the first delta
    billable = False  #: the provider may have charged for it: the outcome is unknown, or output has come
    falls_back = False  #: not worth another try here, but another provider may well answer

    def __init__(
        self,
        detail: str = "",
        *,
        status: int | None = None,
        retry_after: float | None = None,
        billable: bool | None = None,
    ) -> None:
        """`detail` is the provider's own words, shortened, without keys or prompts. `retry_after` is seconds.

        `billable` overrules the class where more is known, e.g. that the provider refused before it began.
        """
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.retry_after = retry_after
        if billable is not None:
            self.billable = billable

    @classmethod
    def code(cls) -> str:
        """A stable name for the database and metrics, e.g. `RateLimited`."""
        return cls.__name__

    @classmethod
    def sentence(cls) -> str:
        return inspect.cleandoc(cls.__doc__ or "")


def has_refused(failure: LLMError | None, *, has_output: bool) -> bool:
    """Whether a provider has turned a call down before any output, and so bills nothing for it."""
    return failure is not None and not failure.billable and not has_output


class AuthenticationFailed(LLMError):
    """The provider refused the key."""


class PermissionRefused(LLMError):
    """The key may not use this model."""


class ModelNotFound(LLMError):
    """The provider does not know this model."""


class RequestRefused(LLMError):
    """The provider refused the request."""


class ContextLengthExceeded(RequestRefused):
    """The conversation is longer than the model can read."""


class RateLimited(LLMError):
    """The model is busy. Try again in a moment."""

    retryable = True


class QuotaExhausted(LLMError):
    """The provider's account has no credit left."""


class Overloaded(LLMError):
    """The provider is overloaded."""

    retryable = True


class ProviderFailed(LLMError):
    """The provider had an internal error."""

    retryable = True


class ConnectionFailed(LLMError):
    """The provider could not be reached."""

    retryable = True


class TimedOut(LLMError):
    """The provider did not answer in time."""

    retryable = True
    billable = True


class InvalidResponse(LLMError):
    """The provider answered with something that is not a model's reply."""

    billable = True


class StreamInterrupted(LLMError):
    """The connection to the model was lost."""

    retryable = True
    billable = True


class ProviderBusy(LLMError):
    """Too many replies are waiting for this model. Try again in a moment."""

    falls_back = True


class ProviderUnavailable(LLMError):
    """The provider failed several times in a row and is left alone for a while. Try again in a minute."""

    falls_back = True
