"""The registry of published models: MLflow's, with signed bundles in it.

The registry is a place, not an authority. It finds bundles and says which version has which alias; what a version
*is* is decided by the bundle's signature, checked on every read. What it can do, if somebody takes it over, is
refuse, or name an older bundle of the same model that was signed as well (``docs/bundle-spec.md``, "What a
registry can do").
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import dsse
from models.bundle import Bundle, verify
from models.errors import BundleError, nearest
from server.errors import RegistryError
from server.publishing import registry_files
from server.publishing.mlflow_quiet import asking, connect
from server.publishing.registry_place import Place, place
from server.publishing.registry_version import ALIAS, NAME, NUMBER, OURS, Version, is_ours, read_version
from server.publishing.tracking import EXPERIMENTS, log_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PAGE = 200
_MOST = 10_000


@dataclass(frozen=True)
class Registry:
    """Published models; make one with :meth:`at`. Every method may raise :class:`RegistryError`."""

    place: Place
    keys: tuple[bytes, ...]

    @classmethod
    def at(cls, url: str, *, artifacts: str | None = None, keys: Sequence[bytes]) -> Registry:
        """Return the registry at a URL; it is not spoken to before it is asked for something.

        Args:
            url, artifacts: as :func:`server.publishing.registry_place.place` reads them.
            keys: raw Ed25519 public keys (32 bytes) that may sign bundles.

        Raises:
            RegistryError: the URL is of no use.
        """
        return cls(place(url, artifacts), tuple(keys))

    def publish(
        self,
        folder: Path,
        bundle: Bundle,
        *,
        run_metrics: Sequence[Mapping[str, Any]] = (),
    ) -> int:
        """Register a signed bundle, and return its version's number; a bundle that is there already keeps its own.

        A version is made only once the files, read back from the registry, have been verified. A new SQLite
        registry is made where there is none.

        Args:
            folder: the bundle's folder.
            bundle: the same, verified.
            run_metrics: lines of the run's ``metrics.jsonl``.

        Raises:
            BundleError: the folder is not the bundle, or is signed by none of the keys.
            RegistryError: the registry cannot be written, or does not give back what it was given.
        """
        if verify(folder, self.keys).digest != bundle.digest:
            raise BundleError(f"{folder}: holds another bundle than was given; publish the folder that was verified")
        name = bundle.name
        client = self._made()
        self._register_name(client, name)
        if known := [version for version in self.versions(name) if version.digest == bundle.digest]:
            return known[0].version
        with self.place.locked(), asking(self.place):
            run_id = client.create_run(self._experiment(client, name), run_name=bundle.run).info.run_id
        try:
            with asking(self.place):
                log_run(client, run_id, bundle, run_metrics)
            where = registry_files.location(self.place, client, name, run_id)
            registry_files.upload(self.place, where, folder)
            self._check_upload(where, bundle)
            return self._create_version(client, bundle, run_id, where)
        except BaseException:
            # Whatever it was, and even if the registry no longer answers, no version was made.
            with contextlib.suppress(RegistryError), asking(self.place):
                client.set_terminated(run_id, "FAILED")
            raise

    def ready(self) -> None:
        """Make the registry if there is none, and ask it something, so that a publisher's work is not done in vain.

        Raises:
            RegistryError: it cannot be reached, made or written to.
        """
        client = self._made()
        with asking(self.place):
            client.search_registered_models(max_results=1)

    def names(self) -> list[str]:
        """Return the names of all models that Confide published here."""
        with asking(self.place):
            found = _pages(lambda token: self._client.search_registered_models(max_results=_PAGE, page_token=token))
            return sorted(model.name for model in found if f"{OURS}format" in model.tags and NAME.fullmatch(model.name))

    def versions(self, name: str) -> list[Version]:
        """Return every version of a model that Confide published, oldest first."""
        aliases = self._aliases(name)
        with asking(self.place):
            found = _pages(
                lambda token: self._client.search_model_versions(f"name='{name}'", max_results=_PAGE, page_token=token)
            )
            versions = [read_version(given, aliases) for given in found if is_ours(given)]
        return sorted(versions, key=lambda version: version.version)

    def version(self, name: str, spec: int | str) -> Version:
        """Return one version: ``spec`` is its number or ``"@alias"``.

        Raises:
            RegistryError: there is no such model, version or alias; what there is is named.
        """
        text, aliases = str(spec), self._aliases(name)
        number = self._resolved(name, aliases, text[1:]) if text.startswith("@") else text
        if not NUMBER.fullmatch(number):
            raise RegistryError(f"{name} {text[:80]!r}: give a version's number, or an alias as @champion")
        with asking(self.place):
            given = _found(lambda: self._client.get_model_version(name, number))
        if given is None or not is_ours(given):
            known = ", ".join(str(version.version) for version in self.versions(name)[-10:]) or "none"
            raise RegistryError(f"{name}: no version {number} that Confide published; there are: {known}")
        return read_version(given, aliases)

    def fetch(self, name: str, spec: int | str, into: Path) -> tuple[Version, Bundle]:
        """Return a version and its bundle, verified, copied to ``into/DIGEST`` unless it is there already.

        Raises:
            BundleError: what the registry has, or ``into``, is not what one of the keys signed for this model.
            RegistryError: no such version, or the registry gives out another bundle than the version's.
        """
        version = self.version(name, spec)
        bundle = registry_files.cached(into, version.digest, self.keys, name=name)
        if bundle is None:
            where = registry_files.location(self.place, self._client, name, version.mlflow_run)
            try:
                bundle = registry_files.download(self.place, where, self.keys, into, name=name)
            except BundleError as error:
                raise BundleError(f"{name} version {version.version}: {error}") from None
        if bundle.digest != version.digest:
            raise RegistryError(
                f"{name} version {version.version}: the registry holds bundle {bundle.digest[:12]}…, not the "
                f"{version.digest[:12]}… that was registered; tell whoever keeps it, and publish the run again"
            )
        return version, bundle

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Let an alias mean a version, which must exist."""
        self.version(name, version)
        with self.place.locked(), asking(self.place):
            self._client.set_registered_model_alias(name, _checked_alias(alias), str(version))

    def alias(self, name: str, alias: str) -> int | None:
        """Return the version that an alias means, or None."""
        return self._aliases(name).get(_checked_alias(alias))

    def note(self, name: str, key: str) -> str | None:
        """Return what was noted of a model under a key; whoever writes to the registry could have noted it."""
        value = self._model(name).tags.get(OURS + key)
        return None if value is None else str(value)

    def set_note(self, name: str, key: str, value: str) -> None:
        """Note something of a model."""
        with self.place.locked(), asking(self.place):
            self._client.set_registered_model_tag(name, OURS + key, value)

    @cached_property
    def _client(self) -> MlflowClient:
        """MLflow's client of a registry that exists."""
        self.place.check(create=False)
        return connect(self.place)

    def _made(self) -> MlflowClient:
        """MLflow's client of a registry that is made if need be: elsewhere, so that nobody ever sees half of it."""
        with self.place.locked():
            self.place.check(create=True)
            database = self.place.database
            if database is not None and not database.exists():
                staged = database.with_name(f".{database.name}.{secrets.token_hex(8)}.tmp")
                new = replace(self.place, url=f"sqlite:///{staged}")
                try:
                    with asking(new):
                        connect(new).search_experiments(max_results=1)
                        staged.rename(database)
                finally:
                    staged.unlink(missing_ok=True)
        return self._client

    def _register_name(self, client: MlflowClient, name: str) -> None:
        """Make the registered model, unless it is there; another publisher may make it at the same moment."""
        with self.place.locked(), asking(self.place):
            if _found(lambda: client.get_registered_model(name)) is None:
                with _existing():
                    client.create_registered_model(name, tags={f"{OURS}format": "1"})

    def _experiment(self, client: MlflowClient, name: str) -> str:
        """The id of the experiment of a model's runs, made unless it is there."""
        title = EXPERIMENTS + name
        if client.get_experiment_by_name(title) is None:
            with _existing():
                client.create_experiment(title, registry_files.experiment_artifacts(self.place, name))
        found = client.get_experiment_by_name(title)
        if found is None:
            raise RegistryError(f"{self.place.shown}: has no experiment {title} although it was made; try again")
        return str(found.experiment_id)

    def _check_upload(self, where: str, bundle: Bundle) -> None:
        """Read back what was uploaded: a version of half a bundle would be worse than none."""
        with registry_files.scratch() as folder:
            try:
                got = registry_files.download(self.place, where, self.keys, folder, name=bundle.name)
            except BundleError as error:
                raise RegistryError(
                    f"{self.place.shown}: does not give back what was uploaded ({error}); see that it has space, and "
                    "publish again"
                ) from None
        if got.digest != bundle.digest:
            raise RegistryError(f"{self.place.shown}: gives back another bundle than was uploaded; publish again")

    def _create_version(self, client: MlflowClient, bundle: Bundle, run_id: str, where: str) -> int:
        """Make the version of an uploaded bundle: the moment at which it is published."""
        ours = {
            "digest": bundle.digest,
            "run": bundle.run,
            "key": dsse.keyid(bundle.key),
            "default": bundle.parts.default,
        }
        with self.place.locked(), asking(self.place):
            client.set_terminated(run_id, "FINISHED")
            made = client.create_model_version(
                bundle.name,
                where,
                run_id,
                tags={OURS + key: value for key, value in ours.items()},
                description=bundle.parts.description,
                await_creation_for=0,
            )
        return int(made.version)

    def _model(self, name: str) -> Any:
        """The registered model of that name."""
        client = self._client
        if NAME.fullmatch(name):
            with asking(self.place):
                found = _found(lambda: client.get_registered_model(name))
            if found is not None:
                return found
        raise RegistryError(f"model {name[:80]!r}: not in {self.place.shown}; {nearest(name, self.names())}")

    def _aliases(self, name: str) -> dict[str, int]:
        """What each alias of a model means."""
        return {
            alias: int(number)
            for alias, number in sorted(self._model(name).aliases.items())
            if ALIAS.fullmatch(alias) and NUMBER.fullmatch(str(number))
        }

    @staticmethod
    def _resolved(name: str, aliases: Mapping[str, int], alias: str) -> str:
        """The number that an alias stands for."""
        if alias not in aliases:
            raise RegistryError(f"{name}: no alias {alias[:80]!r}; {nearest(alias, aliases)}")
        return str(aliases[alias])


def _checked_alias(alias: str) -> str:
    """An alias that MLflow takes and that cannot be taken for a number."""
    if not ALIAS.fullmatch(alias):
        raise RegistryError(f"alias {alias[:80]!r}: letters, digits, _ and -, neither v1 nor latest; choose another")
    return alias


def _found(ask: Callable[[], Any]) -> Any:
    """What MLflow has, or None where it has not."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  # takes seconds, and is an extra

    try:
        return ask()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


@contextlib.contextmanager
def _existing() -> Iterator[None]:
    """Let somebody else have made it a moment ago."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  # as above

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    """Everything that MLflow gives out a page at a time."""
    token, given = None, 0
    while given < _MOST:
        page = ask(token)
        yield from page
        token, given = page.token, given + max(len(page), 1)
        if not token:
            return
