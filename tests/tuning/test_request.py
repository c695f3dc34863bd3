"""What a search was asked for: the command that says it again, and passwords that nobody gets to see."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinikit.errors import ConfigError
from pinikit.tuning.request import Request, masked, without_secrets
from pinikit.tuning.storage import open_storage


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:sesame@h:5432/db", "postgresql://me:***@h:5432/db"),
        ("postgresql://me:ses@me@h/db", "postgresql://me:***@h/db"),
        ("me:sesame@h/db", "me:***@h/db"),
        ("postgresql://h/db?user=me&password=sesame", "postgresql://h/db?user=me&password=***"),
        (
            "postgresql://me:a@h/db?sslpassword=sesame&sslmode=require#x",
            "postgresql://me:***@h/db?sslpassword=***&sslmode=require#x",
        ),
        ("mysql://h/db?PASSWD=sesame", "mysql://h/db?PASSWD=***"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dsesame", "mssql+pyodbc:///?odbc_connect=***"),
    ],
)
def test_passwords_are_masked_and_not_written(url: str, shown: str, tmp_path: Path) -> None:
    request = Request("tune", storage=url)
    assert masked(url) == shown
    assert shown in request.command.replace("'", "")
    request.save(tmp_path)
    assert "sesame" not in (tmp_path / "tune.json").read_text() + request.command
    again, secret = Request.load(tmp_path)
    assert (again.storage, secret) == (None, True)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///a:b@c.db",
        "sqlite:///x@y.db",
        "journal:/a/b@c.log",
        "postgresql://me@h:5432/db?passfile=/home/me/.pgpass",
        "search.log",
    ],
)
def test_what_is_no_password_is_kept(url: str, tmp_path: Path) -> None:
    request = Request("tune", ("seeds=[1, 2]",), 7, 60.0, 2, url, str(tmp_path))
    assert masked(url) == url
    request.save(tmp_path)
    assert Request.load(tmp_path) == (request, False)


def test_messages_of_drivers_are_masked(tmp_path: Path) -> None:
    url = "postgresql://me:se%20same@h/db?sslpassword=b"
    said = f"cannot parse {url}: 'se same' or se%20same (b) of sesame, better"
    assert without_secrets(said, url) == f"cannot parse {masked(url)}: '***' or *** (***) of sesame, better"
    with pytest.raises(ConfigError) as error:
        open_storage("postgresql://me:sesame@h:port/db", tmp_path, print)
    assert "sesame" not in str(error.value)
    with pytest.raises(ConfigError, match=r"found 'me:\*\*\*@h/db'"):
        open_storage("me:sesame@h/db", tmp_path, print)


def test_the_command_says_all_that_was_asked_for() -> None:
    assert Request("tune").command == "pinikit tune tune --trials 100"
    request = Request("a b.yaml", ("x=1",), 7, 90.0, 2, "s.log", "else where")
    assert request.command == (
        "pinikit tune 'a b.yaml' x=1 --trials 7 --jobs 2 --timeout 90 --storage s.log --runs 'else where'"
    )
