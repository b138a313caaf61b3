"""Tokens that a process is lent: waited for, taken, renewed by itself only where none comes."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import access_services
from ndvi_scale import sources, tokens
from ndvi_scale.tokens import Loan, TokenCache, TokenPlace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from access_services import SasService
    from ndvi_scale.sources import Access

HREF = "https://account.blob.core.windows.net/container/a.tif"


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SasService]:
    for name in ("PC_SDK_SAS_URL", "PC_SDK_SUBSCRIPTION_KEY"):
        monkeypatch.setenv(name, "")
    with access_services.sas_service(tmp_path) as service:
        yield service


@pytest.fixture
def rule(service: SasService) -> Access:
    (rule,) = (rule for rule in sources.ACCESS if rule.name == "planetary-computer")
    return replace(rule, token_url=service.token_url)


@pytest.fixture
def borrower() -> TokenCache:
    cache = TokenCache()
    cache.borrow(borrows=True)
    return cache


def test_what_is_lent_is_waited_for(service: SasService, rule: Access, borrower: TokenCache) -> None:
    loans = {TokenPlace.of(rule, HREF): Loan("sig=lent", 3600.0)}
    later = threading.Timer(0.3, borrower.accept, [loans])
    later.start()
    assert borrower.token(rule, HREF) == "sig=lent"
    later.join()
    assert not service.asked


def test_what_does_not_come_is_waited_for_once(
    service: SasService, rule: Access, borrower: TokenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "LOAN_S", 0.3)
    service.lifetime = 1.3  # of which the last fifth is not used
    began = time.monotonic()
    assert "sig=" in borrower.token(rule, HREF)
    assert time.monotonic() - began >= 0.3
    time.sleep(1.1)
    monkeypatch.setattr(tokens, "LOAN_S", 60.0)
    borrower.token(rule, HREF)
    assert len(service.asked) == 2


def test_who_is_told_that_nothing_is_lent_waits_no_longer(
    service: SasService, rule: Access, borrower: TokenCache
) -> None:
    later = threading.Timer(0.3, borrower.borrow, kwargs={"borrows": False})
    later.start()
    assert "sig=" in borrower.token(rule, HREF)
    later.join()
    assert len(service.asked) == 1


def test_what_is_lent_and_refused_is_asked_for(
    service: SasService, rule: Access, borrower: TokenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "YOUNG_S", 0.0)
    borrower.accept({TokenPlace.of(rule, HREF): Loan("sig=lent", 3600.0)})
    assert "secret" in borrower.token(rule, HREF, refused="sig=lent")
    assert len(service.asked) == 1


def test_a_lender_renews_before_its_borrower_would(rule: Access, service: SasService) -> None:
    service.lifetime = 10.0
    lender, borrower, place = TokenCache(), TokenCache(), TokenPlace.of(rule, HREF)
    loan = lender.lend(place)
    borrower.accept({place: loan})
    assert 9.0 < loan.left <= 10.0
    assert lender._tokens[place].renewed < borrower._tokens[place].renewed < borrower._tokens[place].expires
