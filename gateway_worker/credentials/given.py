"""Secrets of the gateway's own, as the settings give them: as text, or in a file that may change while it runs."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from common.domain.errors import ConfigurationError
from gateway_worker.credentials.failure import ProviderFailed

MOST = 64 << 10
"""Bytes that are read of a file."""


class GivenSecret:
    """The text of ``<where>`` or, read anew each time, the file of ``<where>_file``."""

    def __init__(self, where: str, value: SecretStr | None, file: str | None) -> None:
        """``where`` is the setting's name, for what is said of it. Raises :class:`ConfigurationError`."""
        self.where = where if file is None else f"{where}_file"
        self._value = value
        self._file = file
        try:
            self.read()
        except ProviderFailed as error:
            raise ConfigurationError(str(error), field=self.where) from None

    def read(self) -> str:
        """The secret. Raises :class:`ProviderFailed` that names the setting."""
        if self._file is None:
            text = "" if self._value is None else self._value.get_secret_value()
        else:
            text = self._of_file(self._file)
        if not text.strip():
            raise ProviderFailed(f"{self.where} holds nothing: put the secret there")
        return text.strip()

    def _of_file(self, name: str) -> str:
        try:
            with Path(name).open("rb") as file:
                return file.read(MOST).decode()
        except OSError as error:
            raise ProviderFailed(f"{self.where} cannot be read: {error.strerror}") from None
        except ValueError:
            raise ProviderFailed(f"{self.where} holds no text (UTF-8)") from None
