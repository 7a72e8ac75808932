"""The section "Auth" of the contract: a test for each cell of its table."""

from __future__ import annotations

import base64
import json
import time
from typing import Any, Dict

import pytest
import requests
from conftest import NAIVE, Api, log_in, new_user, problems, shows

USER_KEYS = (
    "email full_name company company_custom division division_custom department phone_number bio id system_role "
    "is_active badge_color avatar_name organization_id created_at"
).split()
PROFILE = "full_name company company_custom division division_custom department phone_number bio".split()


def claims(token: str) -> Dict[str, Any]:
    part = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def test_login_takes_a_form_and_gives_both_tokens(tokens: Dict[str, str]) -> None:
    assert list(tokens) == ["access_token", "refresh_token", "token_type"]
    assert tokens["token_type"] == "bearer"


def test_login_tolerates_the_other_fields_of_the_password_form(api: Api, email: str, password: str) -> None:
    form = {"grant_type": "password", "username": email, "password": password, "scope": "", "client_id": "x"}
    answer = api.post("/auth/login", token=None, data={**form, "client_secret": "y"})
    assert answer.status_code == 200, answer.text


def test_login_with_a_wrong_password_is_401_and_names_the_scheme(api: Api) -> None:
    address, _ = new_user(api)
    answer = log_in(api, address, "not the password")
    shows(answer, 401, "Incorrect email or password")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_login_of_nobody_is_answered_alike(api: Api) -> None:
    shows(log_in(api, "nobody-at-all@example.com", "whatever1"), 401, "Incorrect email or password")


def test_login_with_a_json_body_is_422_naming_both_fields(api: Api, email: str, password: str) -> None:
    answer = api.post("/auth/login", token=None, json={"username": email, "password": password})
    assert problems(answer) == [("body.username", "missing"), ("body.password", "missing")]


def test_login_of_an_inactive_user_is_400(api: Api, root: str) -> None:
    from conftest import trainyard

    address, answer = new_user(api)
    assert answer.status_code == 201, answer.text
    trainyard(root, str(api.token), "users", "disable", address)
    shows(log_in(api, address, "pass-word-1"), 400, "Inactive user")


def test_register_makes_a_guest_and_keeps_the_profile(api: Api) -> None:
    profile = {name: f"my {name}" for name in PROFILE}
    address, answer = new_user(api, **profile)
    assert answer.status_code == 201, answer.text
    user = answer.json()
    assert list(user) == USER_KEYS
    assert user["email"] == address
    assert user["system_role"] == "guest"
    assert user["is_active"] is True
    assert isinstance(user["id"], int)
    assert {name: user[name] for name in PROFILE} == profile
    assert NAIVE.fullmatch(user["created_at"])
    assert log_in(api, address, "pass-word-1").status_code == 200


def test_register_twice_is_400(api: Api) -> None:
    address, _ = new_user(api)
    body = {"email": address, "password": "pass-word-2"}
    shows(api.post("/auth/register", token=None, json=body), 400, "Email already registered")


def test_register_names_every_bad_field(api: Api) -> None:
    places = [place for place, _ in problems(api.post("/auth/register", token=None, json={}))]
    assert places == ["body.email", "body.password"]
    for password in ("seven77", "x" * 101):
        body = {"email": "someone-new@example.com", "password": password}
        places = [place for place, _ in problems(api.post("/auth/register", token=None, json=body))]
        assert places == ["body.password"]
    body = {"email": "no address", "password": "pass-word-1"}
    assert [place for place, _ in problems(api.post("/auth/register", token=None, json=body))] == ["body.email"]


def test_refresh_takes_a_query_parameter_and_gives_two_new_tokens(api: Api, email: str, password: str) -> None:
    first = log_in(api, email, password).json()
    answer = api.post("/auth/refresh", token=None, params={"refresh_token": first["refresh_token"]})
    assert answer.status_code == 200, answer.text
    second = answer.json()
    assert list(second) == ["access_token", "refresh_token", "token_type"]
    assert second["refresh_token"] != first["refresh_token"]
    assert api.get("/auth/me", token=second["access_token"]).status_code == 200


def test_refresh_with_a_bad_token_is_401_with_a_reason(api: Api, tokens: Dict[str, str]) -> None:
    for bad in ("rubbish", tokens["access_token"]):
        answer = api.post("/auth/refresh", token=None, params={"refresh_token": bad})
        assert answer.status_code == 401
        assert answer.json()["detail"].startswith("Invalid refresh token: ")


def test_refresh_without_a_token_is_422(api: Api) -> None:
    assert problems(api.post("/auth/refresh", token=None)) == [("query.refresh_token", "missing")]


def test_me_shows_the_caller_with_every_key(api: Api, email: str) -> None:
    answer = api.get("/auth/me")
    assert answer.status_code == 200
    assert list(answer.json()) == USER_KEYS
    assert answer.json()["email"] == email


def test_me_can_be_changed(api: Api) -> None:
    address, _ = new_user(api)
    token = log_in(api, address, "pass-word-1").json()["access_token"]
    answer = api.put("/auth/me", token=token, json={"full_name": "Ada", "bio": "counts"})
    assert answer.status_code == 200, answer.text
    shown = api.get("/auth/me", token=token).json()
    assert answer.json() == shown
    assert (shown["full_name"], shown["bio"], shown["system_role"]) == ("Ada", "counts", "guest")


def test_me_cannot_raise_its_own_role(api: Api) -> None:
    address, _ = new_user(api)
    token = log_in(api, address, "pass-word-1").json()["access_token"]
    api.put("/auth/me", token=token, json={"system_role": "admin", "id": 1, "is_active": False})
    shown = api.get("/auth/me", token=token).json()
    assert (shown["system_role"], shown["is_active"], shown["email"]) == ("guest", True, address)


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_me_without_a_token_is_401(api: Api, method: str) -> None:
    shows(api.call(method, "/auth/me", token=None, json={} if method == "PUT" else None), 401, "Not authenticated")


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_me_with_a_bad_token_is_401(api: Api, tokens: Dict[str, str], method: str) -> None:
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    unsigned = f"{head}.{tokens['access_token'].split('.')[1]}."
    for bad in ("rubbish", tokens["refresh_token"], tokens["access_token"][:-3] + "abc", unsigned):
        answer = api.call(method, "/auth/me", token=bad, json={} if method == "PUT" else None)
        shows(answer, 401, "Could not validate credentials")


def test_logout_answers_with_a_message(api: Api, email: str, password: str) -> None:
    pair = log_in(api, email, password).json()
    answer = api.post("/auth/logout", token=pair["access_token"])
    assert answer.status_code == 200
    assert list(answer.json()) == ["message"]


def test_logout_needs_a_token(api: Api) -> None:
    shows(api.post("/auth/logout", token=None), 401, "Not authenticated")
    shows(api.post("/auth/logout", token="rubbish"), 401, "Could not validate credentials")


def test_claims_of_an_access_token(api: Api, tokens: Dict[str, str]) -> None:
    header = json.loads(base64.urlsafe_b64decode(tokens["access_token"].split(".")[0] + "=="))
    assert header["alg"] == "HS256"
    found = claims(tokens["access_token"])
    user = api.get("/auth/me").json()
    assert (found["sub"], found["email"], found["role"]) == (str(user["id"]), user["email"], user["system_role"])
    assert found["organization_id"] is None
    assert found["type"] == "access"
    assert 55 * 60 < found["exp"] - time.time() <= 60 * 60 + 5


def test_claims_of_a_refresh_token(api: Api, tokens: Dict[str, str]) -> None:
    found = claims(tokens["refresh_token"])
    assert found["sub"] == str(api.get("/auth/me").json()["id"])
    assert found["type"] == "refresh"
    assert 0 < found["exp"] - time.time() - 6 * 86400 <= 86400 + 5


def test_the_first_user_of_development_mode_exists(root: str) -> None:
    form = {"username": "admin@example.com", "password": "admin123"}
    assert requests.post(f"{root}/api/v1/auth/login", data=form, timeout=30).status_code == 200
