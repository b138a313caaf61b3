from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.exceptions import BaseError, UnknownConfigurationKeyError
from obstore.store import AzureStore, GCSStore, S3Store

from ndvi_scale.errors import StoreError
from ndvi_scale.storage_options import SERVICES, Option, Service, read_options

CLIENTS = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
EVERY = [(kind, option) for kind, service in SERVICES.items() for option in service.all_options()]


def a_value(option: Option) -> str:
    """Some value that an option takes."""
    examples = {"true or false": "true", "a value": "x"}
    return examples.get(option.rule) or ("http://127.0.0.1:1" if "host" in option.rule else "3s")


def names_of(service: Service) -> list[str]:
    return [name for option in service.all_options() for name in (option.name, *option.aliases)]


@pytest.mark.parametrize("kind", SERVICES)
def test_no_name_means_two_things(kind: str) -> None:
    names = names_of(SERVICES[kind])
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("kind", "option"), EVERY, ids=lambda value: getattr(value, "name", value))
def test_obstore_knows_every_option(kind: str, option: Option) -> None:
    """By the name in the table; whether the value is a good one, is its business. The profile is ours."""
    read = read_options(SERVICES[kind], f"{kind}://b/x", {option.name: a_value(option)})
    assert (read.client if option.client else read.config) == {option.name: a_value(option)}
    config = {key: value for key, value in read.config.items() if key != "profile"}
    try:
        CLIENTS[kind]("b", config=config, client_options=read.client or None)
    except UnknownConfigurationKeyError as error:
        pytest.fail(str(error))
    except BaseError:
        return


@pytest.mark.parametrize(
    ("kind", "given_name", "name"),
    [
        ("s3", "AWS_ACCESS_KEY_ID", "access_key_id"),
        ("s3", "aws_secret_access_key", "secret_access_key"),
        ("s3", "endpoint-url", "endpoint"),
        ("s3", "anon", "skip_signature"),
        ("s3", "aws_region", "region"),
        ("gs", "GOOGLE_SERVICE_ACCOUNT_PATH", "service_account"),
        ("gs", "google_application_credentials", "application_credentials"),
        ("gs", "endpoint", "base_url"),
        ("gs", "token", "bearer_token"),
        ("az", "AZURE_STORAGE_ACCOUNT_NAME", "account_name"),
        ("az", "azure_client_secret", "client_secret"),
        ("az", "sas_token", "sas_key"),
        ("az", "AZURE_STORAGE_SAS_TOKEN", "sas_key"),
        ("az", "bearer_token", "token"),
    ],
)
def test_other_names_of_the_same(kind: str, given_name: str, name: str) -> None:
    service = SERVICES[kind]
    option = next(option for option in service.all_options() if option.name == name)
    read = read_options(service, f"{kind}://b/x", {given_name: a_value(option)})
    assert read.config == {name: a_value(option)}


def test_options_of_the_connection_go_to_the_client() -> None:
    read = read_options(SERVICES["s3"], "s3://b/x", {"aws_allow_http": "TRUE", "timeout": "2min", "region": " r "})
    assert read.client == {"allow_http": "TRUE", "timeout": "2min"}
    assert read.config == {"region": "r"}
    assert repr(read) == "Settings(allow_http, region, timeout)"


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (
            "s3",
            {"endpont": "http://a"},
            r"unknown storage option 'endpont' .*: did you mean 'endpoint'\?",
        ),
        ("s3", {"colour": "red"}, "unknown storage option 'colour' for s3://b/x: known are endpoint, region, "),
        ("az", {"acount_name": "a"}, r"did you mean 'account_name'\?"),
        ("gs", {"service_acount": "a"}, r"did you mean 'service_account'\?"),
        ("gs", {"region": "eu"}, "unknown storage option 'region'"),
        (
            "s3",
            {"key": "a", "AWS_ACCESS_KEY_ID": "b"},
            "'key' and 'AWS_ACCESS_KEY_ID' for .* the same one",
        ),
        ("s3", {"secret": " "}, "storage option 'secret' is empty"),
        ("s3", {"anon": "maybe"}, "'anon' must be true or false"),
        ("s3", {"timeout": "30"}, "'timeout' must be a duration, such as 30s"),
        ("s3", {"endpoint": "127.0.0.1:8333"}, r"'endpoint' must be http\(s\)://host"),
        ("gs", {"base_url": "http://u:hunter2@h"}, "'base_url' must be http.*without user, password or query"),
        ("az", {"endpoint": "https://h/?sig=hunter2"}, "'endpoint' must be http"),
    ],
)
def test_options_that_cannot_be(kind: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(StoreError, match=words) as error:
        read_options(SERVICES[kind], f"{kind}://b/x", options)
    assert "hunter2" not in str(error.value)


SECRET = st.text("abcdefghij", min_size=8, max_size=20).map(lambda text: f"canary{text}")


@given(
    kind=st.sampled_from(sorted(SERVICES)),
    options=st.dictionaries(st.text(max_size=12) | st.sampled_from(names_of(SERVICES["s3"])), SECRET, max_size=4),
)
def test_no_value_is_ever_shown(kind: str, options: dict[str, str]) -> None:
    """Whatever is asked: read, or refused, in one line without any value."""
    try:
        shown = repr(read_options(SERVICES[kind], f"{kind}://b/x", options))
    except StoreError as error:
        shown = str(error)
    assert not re.search("canary", shown)
    assert "\n" not in shown
