from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import Stalled
from agent.runtime.users import MAX_GROUPS, MAX_ID, Identity, resolve_user

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
app:x:1000:1001:An app:/home/app:/bin/sh
other:x:1000:7:same id, later line:/elsewhere:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
2147483648:x:0:0:digits:/root:/bin/sh
4294967296:x:0:0:digits:/root:/bin/sh
100000000000000000000:x:0:0:digits:/root:/bin/sh
4242:x:0:0:digits in range:/root:/bin/sh
-1:x:0:0::/root:/bin/sh
1a:x:zero:0::/root:/bin/sh
minus:x:-1:0::/root:/bin/sh
huge:x:2147483648:0::/root:/bin/sh
badgid:x:5:five::/root:/bin/sh
empty:x:::::
short:x
nohome:x:60:60
homeless:x:61:61:::
strange:x:62:62::/\xff\xfe:
nul:x:63:63::/a\0b:
\xff\xfe:x:0:0::/:
:x:0:0::/:
spaced name:x:64:64::/s:
+1:x:0:0::/root:
 7 :x:0:0::/root:
last:x:70:70::/last:/bin/sh"""
GROUP = b"""root:x:0:root
daemon:x:1:
wheel:x:10:root,app,daemon
app:x:1001:app
web:x:33:app,app,nobody
777:x:0:
bad:x:-5:app
bad2:x:99999999999:app
bad3:x::app
bad4
none:x:44:,,
users:x:100:app"""

REFUSED = (
    "1a| 1|1 | 7 |-1|+1|--1|nobody:|:5|:|::|a:b:c|app:web:|2147483648|4294967295|4294967296|100000000000000000000|"
    "unknown|minus|huge|badgid|empty|short|app:unknown|app:-1|app:bad|app:bad2|app:2147483648|0x0|1_0|1.0|１|²|"
    "root\n|root\0|\0|\n|\ud800|\udcff\udcfe|ROOT|root x|app: 1|0:|:0|-0|+0|0-0"
)


@pytest.mark.parametrize(
    ("text", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, (0, 10), "/root"),
        ("0", 0, 0, (0, 10), "/root"),
        ("root", 0, 0, (0, 10), "/root"),
        ("1", 1, 1, (1, 10), "/usr/sbin"),
        ("1:1", 1, 1, (1,), "/usr/sbin"),
        ("app", 1000, 1001, (1001, 10, 33, 100), "/home/app"),
        ("1000", 1000, 1001, (1001, 10, 33, 100), "/home/app"),
        ("01000", 1000, 1001, (1001, 10, 33, 100), "/home/app"),
        ("other", 1000, 7, (7,), "/elsewhere"),
        ("app:web", 1000, 33, (33,), "/home/app"),
        ("app:0", 1000, 0, (0,), "/home/app"),
        ("1000:5000", 1000, 5000, (5000,), "/home/app"),
        ("nobody", 65534, 65534, (65534, 33), "/nonexistent"),
        ("5000", 5000, 0, (0,), "/"),
        ("5000:web", 5000, 33, (33,), "/"),
        ("4242", 4242, 0, (0,), "/"),
        ("5000:777", 5000, 777, (777,), "/"),
        (str(MAX_ID), MAX_ID, 0, (0,), "/"),
        ("nohome", 60, 60, (60,), "/"),
        ("homeless", 61, 61, (61,), "/"),
        ("strange", 62, 62, (62,), "/"),
        ("nul", 63, 63, (63,), "/"),
        ("spaced name", 64, 64, (64,), "/s"),
        ("last", 70, 70, (70,), "/last"),
    ],
)
def test_table(text: str, uid: int, gid: int, groups: tuple[int, ...], home: str) -> None:
    assert resolve_user(text, PASSWD, GROUP) == Identity(uid, gid, groups, home)


@pytest.mark.parametrize(
    "text",
    REFUSED.split("|"),
)
def test_errors_are_never_user_0(text: str) -> None:
    with pytest.raises(Stalled) as caught:
        resolve_user(text, PASSWD, GROUP)
    assert caught.value.reason == "InvalidUser"
    assert caught.value.hint
    assert str(caught.value).isprintable()


def test_without_any_file() -> None:
    assert resolve_user("", b"", b"") == Identity(0, 0, (0,), "/")
    assert resolve_user("12", b"", b"") == Identity(12, 0, (0,), "/")
    with pytest.raises(Stalled):
        resolve_user("root", b"", b"")


def test_windows_line_ends() -> None:
    assert resolve_user("a", b"a:x:5:6::/home/a\r\n", b"g:x:7:b,a\r\n") == Identity(5, 6, (6, 7), "/home/a")


def test_long_text_is_cut_in_messages() -> None:
    with pytest.raises(Stalled) as caught:
        resolve_user("x" * 100_000, PASSWD, GROUP)
    assert len(str(caught.value)) < 500


def test_too_many_groups_are_refused() -> None:
    group = b"".join(b"g:x:%d:app\n" % number for number in range(2000, 2000 + MAX_GROUPS))
    with pytest.raises(Stalled, match="more than"):
        resolve_user("app", PASSWD, group)
    assert resolve_user("app:app", PASSWD, group + GROUP).groups == (1001,)


@given(passwd=st.binary(max_size=400), group=st.binary(max_size=400))
def test_junk_changes_nothing_for_an_id(passwd: bytes, group: bytes) -> None:
    found = resolve_user("1234:77", passwd.replace(b"1234", b""), group)
    assert (found.uid, found.gid, found.groups) == (1234, 77, (77,))


field = st.sampled_from(
    [b"root", b"app", b"0", b"-1", b"1000", b"", b"x", b"\xff", b"99999999999", b"app,root", b"\0", b" "]
)
line = st.lists(field, max_size=9).map(b":".join)
document = st.lists(line, max_size=12).map(b"\n".join)
word = st.text(st.sampled_from("01279ax: -+\n\0é"), max_size=12) | st.sampled_from(["root", "app", "root:app", "app:0"])


def naive_uids(passwd: bytes, name: bytes) -> list[int]:
    """Every uid a line of passwd gives to ``name`` without any doubt."""
    rows = [line.strip().split(b":") for line in passwd.split(b"\n")]
    ids = [(row[2], row[3]) for row in rows if len(row) > 3 and row[0] == name]
    valid = [uid for uid, gid in ids if all(part.isdigit() and int(part) <= MAX_ID for part in (uid, gid))]
    return [int(uid) for uid in valid]


@given(text=word, passwd=document, group=document)
def test_user_0_only_when_it_is_meant(text: str, passwd: bytes, group: bytes) -> None:
    try:
        found = resolve_user(text, passwd, group)
    except Stalled as error:
        assert error.reason == "InvalidUser"
        return
    assert 0 <= found.uid <= MAX_ID
    assert 0 <= found.gid <= MAX_ID
    assert found.groups[0] == found.gid
    assert len(set(found.groups)) == len(found.groups)
    assert found.home
    user = text.partition(":")[0]
    if user.isdigit() and user.isascii():
        assert found.uid == int(user)
    elif user:
        assert found.uid == naive_uids(passwd, user.encode())[0]
    else:
        assert text == ""
