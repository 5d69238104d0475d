"""What .gitmodules may say, which URLs a submodule may have, and to whom credentials go. Attack rows 50 and 57."""

from __future__ import annotations

import pytest

from agent.builder.git.gitaccess import find_submodule_access
from agent.builder.git.gitcommand import GitAccess
from agent.builder.git.submodules import TreeEntry, check_places, read_submodules
from agent.errors import Refused
from agent.oci.gitreference import parse_git_reference, parse_submodule

COMMIT = "1" * 40
OUTER = parse_git_reference("https://git.example/team/app.git#main")
SHORT = parse_git_reference("git@git.example:team/app.git")
LIB = TreeEntry(b"160000", COMMIT, 0, b"lib")


def settings(*pairs: tuple[str, str]) -> bytes:
    return b"".join(f"{key}\n{value}\0".encode() for key, value in pairs)


@pytest.mark.parametrize(
    ("outer", "url", "remote"),
    [
        (OUTER, "../x.git", "https://git.example/team/x.git"),
        (OUTER, "./x", "https://git.example/team/app.git/x"),
        (OUTER, "../../other/x.git/", "https://git.example/other/x.git"),
        (SHORT, "../x.git", "git@git.example:team/x.git"),
        (SHORT, "../../x.git", "git@git.example:x.git"),
        (parse_git_reference("https://h/a.git/"), "./.././x", "https://h/x"),
        (parse_git_reference("ssh://git@h:2222/a/b.git"), "../c.git", "ssh://git@h:2222/a/c.git"),
        (OUTER, "https://github.com/user/no-suffix", "https://github.com/user/no-suffix"),
        (OUTER, "git@h:a/b", "git@h:a/b"),
    ],
)
def test_urls(outer: object, url: str, remote: str) -> None:
    found = parse_submodule(outer, "lib", url, COMMIT)  # type: ignore[arg-type]
    assert (found.remote, found.commit) == (remote, COMMIT)
    assert str(found) == f"{remote}#{COMMIT} (the submodule 'lib' of {outer})"


@pytest.mark.parametrize(
    "url",
    [
        "../../../x.git", "../../../../etc", "..", "../", "", "/srv/x.git", "x.git", "file:///etc/x.git", "fd::3",
        "ext::sh -c touch% /pwned", "-u./x", "--upload-pack=touch /pwned", "https://-oProxyCommand=x/a.git",
        "ssh://-oProxyCommand=x/a.git", "git@-oProxyCommand=x:a.git", "../-x", "../a/../../etc", "https://h/a.git?x",
        "https://u:p@h/a.git", "https://u@h/a.git", "https://h/a.git#x", "https://h/a\nb", "https://h/a.git\r",
        "..\\..\\x", "C:\\x", "ftp://h/a.git", "https://h./a.git", "https://h/" + "a" * 3000, "https://h/\udcff",
    ],
)  # fmt: skip
def test_urls_that_git_never_sees(url: str) -> None:
    outer = parse_git_reference("https://git.example/app.git") if url == "../" else OUTER
    with pytest.raises(Refused, match=r"^the submodule 'lib' of https://git\.example/") as caught:
        parse_submodule(outer, "lib", url, COMMIT)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    ("pairs", "fault"),
    [
        ([("submodule....path", "lib")], "unsafe name"),
        ([("submodule.a/../../hooks.path", "lib")], "unsafe name"),
        ([("submodule..path", "lib")], "unsafe name"),
        ([("submodule.a.path", "lib"), ("submodule.b.path", "lib/")], "two submodules at 'lib'"),
        ([("submodule.a.url", "../x.git"), ("submodule.a.url", "../y.git")], "two things of url"),
        ([("submodule.a.path", "LIB"), ("submodule.a.url", "../x.git")], "has no URL"),
        ([("submodule.a.path", "lib"), ("submodule.a.url", "../x"), ("submodule.a.update", "!id")], "update = '!id'"),
        ([("submodule.recurse", "true")], "has no URL"),
        ([], "has no URL"),
    ],
)  # fmt: skip
def test_what_a_file_may_not_say(pairs: list[tuple[str, str]], fault: str) -> None:
    with pytest.raises(Refused, match=fault) as caught:
        read_submodules([LIB], settings(*pairs), OUTER)
    assert "https://git.example/team/app.git#main" in str(caught.value)


def test_names_and_paths_are_different_things() -> None:
    pairs = [("submodule.a.b/c.path", "lib"), ("submodule.a.b/c.url", "../x.git"), ("submodule.a.b/c.branch", "x")]
    (found,) = read_submodules([LIB], settings(*pairs), OUTER)
    assert (found.path, found.reference.remote) == ("lib", "https://git.example/team/x.git")


@pytest.mark.parametrize("other", [b"LIB", "lib\u0301".encode(), "li\u0301b".encode(), b"a/lib", b"lib-x", b"lib.d/x"])
def test_places(other: bytes) -> None:
    """The letters may be composed or not; only the whole of a path counts."""
    entries = [TreeEntry(b"160000", COMMIT, 0, other.replace("i\u0301".encode(), "\u00ed".encode())), LIB]
    entries.append(TreeEntry(b"100644", COMMIT, 1, other))
    for link in entries[:1]:
        with pytest.raises(Refused, match="but for upper and lower case"):
            check_places(entries, [link], OUTER)
    if other != b"LIB":
        check_places(entries, [LIB], OUTER)


def test_credentials_stay_with_their_host() -> None:
    """Also on the way back: what another host names is asked for as anybody."""
    access = GitAccess("secret", "/agent.sock", local=False)
    beside = parse_submodule(OUTER, "lib", "../x.git", COMMIT)
    assert find_submodule_access(OUTER, beside, access) == access
    assert find_submodule_access(SHORT, beside, access) == access
    far = parse_submodule(OUTER, "lib", "https://203.0.113.9/x.git", COMMIT)
    fared = find_submodule_access(OUTER, far, access)
    assert (fared.token, fared.agent, fared.pinned) == ("", "", "203.0.113.9:443:203.0.113.9")
    back = parse_submodule(far, "lib", "https://198.51.100.7:8443/x.git", COMMIT)
    assert find_submodule_access(far, back, fared).pinned == "198.51.100.7:8443:198.51.100.7"
    plain = parse_submodule(OUTER, "lib", "http://git.example:8080/x.git", COMMIT)
    assert plain.host != OUTER.host
    for url in ("git@203.0.113.9:x.git", "ssh://git@203.0.113.9/x.git", "git://203.0.113.9/x.git"):
        with pytest.raises(Refused, match=r"'lib' of .* is on another host"):
            find_submodule_access(OUTER, parse_submodule(OUTER, "lib", url, COMMIT), access)
    for host in ("127.0.0.1", "[::1]", "169.254.169.254", "0.0.0.0", "2130706433", "localhost"):
        inner = parse_submodule(OUTER, "lib", f"https://{host}/x.git", COMMIT)
        with pytest.raises(Refused, match=r"'lib' of .*a build cannot reach"):
            find_submodule_access(OUTER, inner, access)


def test_a_host_that_only_a_proxy_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is pinned to nowhere, so that only the proxy can look it up; without one it has no address."""
    inner = parse_submodule(OUTER, "lib", "https://nowhere.invalid/x.git", COMMIT)
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "no_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Exception, match=r"'lib' of .*has no address"):
        find_submodule_access(OUTER, inner, GitAccess())
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert find_submodule_access(OUTER, inner, GitAccess()).pinned == "nowhere.invalid:443:192.0.2.1"
    with pytest.raises(Exception, match="has no address"):
        find_submodule_access(OUTER, inner, GitAccess(direct=True))
