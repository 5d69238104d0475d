"""Which proxy leads where, as the environment says it."""

from __future__ import annotations

import pytest

from agent.errors import Refused
from agent.image.origin import parse_origin
from agent.image.proxies import Proxies, Proxy, parse_proxy, read_proxies

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("text", "url", "user"),
    [
        ("http://proxy.example:3128", PROXY, ""),
        ("proxy.example:3128", PROXY, ""),
        ("http://proxy.example:3128/", PROXY, ""),
        ("HTTPS://Proxy.Example", "https://proxy.example:443", ""),
        ("http://[fe80::1]", "http://[fe80::1]:80", ""),
        ("http://joe:p%40ss%3A@proxy.example:3128", PROXY, "joe:p@ss:"),
        ("joe@proxy.example:3128", PROXY, "joe:"),
        ("socks5://proxy.example", "socks5://proxy.example:1080", ""),
        ("socks5h://joe:p%20ss@proxy.example:9", "socks5h://proxy.example:9", "joe:p ss"),
    ],
)
def test_proxies_are_urls(text: str, url: str, user: str) -> None:
    found = parse_proxy(text)
    assert (found.url, found.user) == (url, user)
    assert bool(found.headers) is bool(user)
    assert str(found) == url
    assert not user or user not in repr(found)


BAD = (
    "",
    "socks4://joe:hunter2@p",
    "socks5://:hunter2@p",
    "socks5h://joe@p",
    f"socks5://joe:{'hunter2' * 19}@p",
    "http://",
    "http://joe:hunter2@p:x",
    "p/hunter2",
    "http://p?hunter2",
    "a b",
    "é",
)


@pytest.mark.parametrize("text", [*BAD, "http://joe%3Ax:hunter2@p", "http://joe:hunter2@p:99999", "h\tp", "http://[p"])
def test_what_is_no_proxy_is_refused_without_its_secrets(text: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_proxy(text)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    if text.strip():
        with pytest.raises(Refused, match=r"^HTTPS_PROXY: ") as caught:
            read_proxies({"HTTPS_PROXY": text})
        assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_the_environment_is_read_as_docker_does() -> None:
    assert read_proxies({}) == Proxies()
    assert read_proxies({"HTTPS_PROXY": " ", "https_proxy": "low", "ALL_PROXY": "all"}) == Proxies(
        parse_proxy("all"), parse_proxy("low")
    )
    both = {"HTTP_PROXY": "plain", "https_proxy": "low", "HTTPS_PROXY": "up", "no_proxy": " A.example, ,b"}
    assert read_proxies(both) == Proxies(parse_proxy("plain"), parse_proxy("up"), ("a.example", "b"))


@pytest.mark.parametrize(
    ("exempt", "url", "proxied"),
    [
        ("", "https://a.example", True),
        ("", "https://localhost:5000", False),
        ("", "https://127.9.9.9", False),
        ("", "https://[::1]", False),
        ("*", "https://a.example", False),
        ("a.example", "https://a.example", False),
        ("A.EXAMPLE", "https://a.example", False),
        ("a.example", "https://b.a.example", False),
        ("a.example", "https://ba.example", True),
        (".a.example", "https://b.a.example", False),
        (".a.example", "https://a.example", True),
        ("*.a.example", "https://b.a.example", False),
        ("*.a.example", "https://a.example", True),
        ("a.example:5000", "https://a.example:5000", False),
        ("a.example:5000", "https://a.example", True),
        ("a.example:443", "https://a.example", False),
        ("10.0.0.0/8", "https://10.1.2.3", False),
        ("10.0.0.0/8", "https://11.1.2.3", True),
        ("10.0.0.0/8", "https://ten.example", True),
        ("10.0.0.5", "https://10.0.0.5:5000", False),
        ("10.0.0.5:5000", "https://10.0.0.5:5000", False),
        ("10.0.0.5:5000", "https://10.0.0.5", True),
        ("0.0.5", "https://10.0.0.5", True),
        ("fd00::/8", "https://[fd00::5]", False),
        ("fd00::5", "https://[fd00:0::5]", False),
        ("[fd00::5]:5000", "https://[fd00::5]:5000", False),
        ("x/y", "https://a.example", True),
        ("b, a.example", "https://a.example", False),
    ],
)
def test_no_proxy(exempt: str, url: str, proxied: bool) -> None:
    proxies = read_proxies({"HTTPS_PROXY": PROXY, "NO_PROXY": exempt})
    assert proxies.find(parse_origin(url)) == (Proxy(PROXY) if proxied else None)
    assert proxies.find(parse_origin(url.replace("https", "http"))) is None
