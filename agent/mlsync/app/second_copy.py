"""Open the place of a second copy, which has a server and credentials of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory

from mlsync.app.flow_options import store_options
from mlsync.app.wording import STORE_WAITS
from mlsync.config.model import Config
from mlsync.errors import ConfigInvalid, RepositoryMissing
from mlsync.mirror.place import MAKE_ADVICE
from mlsync.monitor import Monitor
from mlsync.store.counting import CountingStore
from mlsync.store.location import open_store
from mlsync.store.retry import RetryingStore


def is_within(target: str, config: Config) -> bool:
    """Return whether a place is the repository's or below it."""
    if config.repository_directory is None:
        return f"{target.rstrip('/')}/".startswith(f"{config.repository.rstrip('/')}/")
    if target.startswith("s3:"):
        return False
    own = os.path.realpath(config.repository_directory)
    return os.path.commonpath((own, os.path.realpath(target.removeprefix("file://")))) == own


def target_of(
    config: Config, url: str, *, endpoint_url: str | None = None, region: str | None = None, profile: str | None = None
) -> Config:
    """Return a configuration whose repository is the second copy; what is not said of its server is as in *config*.

    Raise ``ConfigInvalid`` for a place inside the repository.
    """
    own = config.s3.endpoint_url if endpoint_url is None else endpoint_url
    is_other = endpoint_url is not None and endpoint_url != config.s3.endpoint_url
    s3 = replace(
        config.s3,
        # An empty one is AWS's own.
        endpoint_url=own or None,
        region=region or (None if is_other else config.s3.region),
        profile=profile or config.s3.profile,
    )
    # Another endpoint is no other bucket: two servers may have buckets of one name.
    if is_within(url, config) and not (config.repository_directory is None and is_other):
        what = "the second copy would be inside the repository, which holds nothing but what mlsync makes"
        raise ConfigInvalid(what, where=url, advice="give another --to")
    return replace(config, repository=url, s3=s3)


@contextmanager
def opened_target(target: Config, monitor: Monitor, *, create: bool, dry_run: bool = False) -> Iterator[CountingStore]:
    """Yield the store of a second copy, which retries; the one that counts is outside, so that it counts calls once.

    With *create* a missing directory is made, or in a dry run an empty one stands for it.
    """

    def report(call: str, error: Exception, wait_s: float) -> None:
        monitor.notice("info", f"{STORE_WAITS}{call} failed, trying again in {wait_s:.1f} s: {error}")

    with ExitStack() as stack:
        try:
            inner = open_store(target.repository, store_options(target), create=create and not dry_run)
        except RepositoryMissing as error:
            if not create:
                raise RepositoryMissing(error.what, where=error.where, advice=MAKE_ADVICE) from error
            inner = open_store(stack.enter_context(TemporaryDirectory(prefix="mlsync-copy-")), store_options(target))
        store = CountingStore(RetryingStore(inner, on_wait=report))
        stack.callback(store.close)
        yield store
