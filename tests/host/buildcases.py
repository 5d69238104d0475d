"""Dockerfiles that cover the language, for builds by Holdfast and by a peer.

``ours`` and ``theirs`` differ where the peer (buildah 1.28) does not know an instruction yet: then it says the same
in older words.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

BASE = "docker.io/library/base:1"


@dataclass(frozen=True)
class Case:
    """What follows ``FROM base`` (or a whole file, when it has a FROM of its own)."""

    name: str
    ours: str
    theirs: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    times: bool = False

    def text(self, ours: bool) -> str:
        body = self.ours if ours or not self.theirs else self.theirs
        return body if "FROM" in body else f"FROM {BASE}\n{body}"


def fill_context(root: Path) -> None:
    """The context that all cases share."""
    files = {
        "a.txt": "A", "b.txt": "B", "c.md": "C", "with space/f 1": "space", "src/main.c": "int", "src/lib/x.c": "x",
        "src/lib/x.o": "object", "src/lib/deep/y.o": "y", "docs/README.md": "read", "docs/draft.md": "draft",
        "hidden/key": "no", "hidden/shown": "yes", "tool": "#!/bin/sh\n",
    }  # fmt: skip
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
    (root / "tool").chmod(0o750)
    (root / "src" / "lib").chmod(0o700)
    (root / "src" / "link").symlink_to("main.c")
    (root / "src" / "dangling").symlink_to("/nowhere")
    (root / ".dockerignore").write_text("# no\nDockerfile\nhidden\n!hidden/shown\n**/*.tmp\n")
    for name, mode in (("p.tar", "w"), ("z.tar.gz", "w:gz"), ("b.tar.bz2", "w:bz2"), ("x.tar.xz", "w:xz")):
        with tarfile.open(root / name, mode) as tar:
            _add(tar, "top/", b"", uid=5, mode=0o751)
            _add(tar, "top/file", b"in " + name.encode(), uid=1000, gid=7, mode=0o4711)
            link = tarfile.TarInfo("top/link")
            link.type, link.linkname = tarfile.SYMTYPE, "file"
            tar.addfile(link)
            hard = tarfile.TarInfo("top/twin")
            hard.type, hard.linkname = tarfile.LNKTYPE, "top/file"
            hard.uid, hard.gid, hard.mode, hard.mtime = 1000, 7, 0o4711, 1_600_000_000
            tar.addfile(hard)


def _add(tar: tarfile.TarFile, name: str, data: bytes, *, uid: int, gid: int = 0, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.uid, info.gid, info.mode, info.mtime, info.size = uid, gid, mode, 1_600_000_000, len(data)
    if name.endswith("/"):
        info.type = tarfile.DIRTYPE
    tar.addfile(info, io.BytesIO(data))


CASES = (
    Case("env", "ENV A=1 B=\"two words\" C=x\\ y\nENV OLD some  value\nENV D=$A${B} E=\"'q'\" A=2 F=$A\n"
         "ENV E=\nENV G=${A:-x} H=${U:-x} I=${A:+y} J=${U:+y} K=${E:-z}\n"),
    Case(
        "env-patterns",
        "ENV F=usr/lib/a.tar.gz\nENV A=${F##*/} B=${F#*/} C=${F%.*} D=${F%%.*} E=${F/lib/bin} G=${F//a/A}"
        " H=${U-n} I=${F+s}\n",
        "ENV F=usr/lib/a.tar.gz\nENV A=a.tar.gz B=lib/a.tar.gz C=usr/lib/a.tar D=usr/lib/a E=usr/bin/a.tar.gz"
        " G=usr/lib/A.tAr.gz H=n I=s\n",
    ),
    Case("labels", "ENV V=1\nLABEL a=b c.d=\"e f\" g=$V\nLABEL multi=\"x\\\n y\" a=z\n"),
    Case("args", "ARG A=1\nARG B\nARG C=$A-c\nENV X=$A Y=$B Z=$C\n", args={"B": "given"}),
    Case("args-before-from", "ARG N=base\nARG T=1\nFROM docker.io/library/$N:${T}\nARG T\nENV T2=$T N2=$N\n"),
    Case("args-below-env", "ARG A=arg\nENV A=env\nENV B=$A\nRUN echo $A > /a\n", args={"A": "given"}),
    Case("args-platform", f"FROM --platform=$BUILDPLATFORM {BASE}\nARG TARGETARCH\nARG TARGETOS\nENV X=$TARGETARCH\n"),
    Case("workdir", "ENV D=/env\nWORKDIR /a/b\nWORKDIR c\nWORKDIR $D/d\nCOPY a.txt .\nCOPY b.txt ./sub/\n"),
    Case("user", "USER 1000:7\nWORKDIR /w\nCOPY a.txt /w/\n"),
    Case("user-by-name", "USER app\nRUN id -u > /tmp/u && id -G >> /tmp/u && echo $HOME >> /tmp/u\n"),
    Case("cmd-shell", "CMD echo $HOME && exit 3\n"),
    Case("entrypoint-clears-cmd", 'ENTRYPOINT ["/bin/sh", "-c"]\n'),
    Case("entrypoint-and-cmd", 'CMD ["x"]\nENTRYPOINT exec top -b\nCMD ["y", "z\\u00e9"]\n'),
    Case("volume", 'ENV V=/vol\nVOLUME /a $V/b\nVOLUME ["/etc", "/tmp"]\n'),
    Case("healthcheck", "HEALTHCHECK --interval=1m30s --timeout=2s --start-period=5s --retries=4 CMD a || exit 1\n"),
    Case("healthcheck-exec", 'HEALTHCHECK CMD ["true", "a b"]\n'),
    Case("healthcheck-none", "HEALTHCHECK CMD x\nHEALTHCHECK NONE\n"),
    Case("shell", 'SHELL ["/bin/sh", "-ec"]\nRUN false | true; echo $- > /o\nCMD a b\nENTRYPOINT c\n',
         'SHELL ["/bin/sh", "-ec"]\nRUN false | true; echo $- > /o\nENTRYPOINT ["/bin/sh", "-ec", "c"]\n'
         'CMD ["/bin/sh", "-ec", "a b"]\n'),
    Case("ports-and-maintainer", "MAINTAINER Some Body <some@body.example>\nSTOPSIGNAL SIGQUIT\nENV P=8080\n"
         "EXPOSE 80 443/tcp 53/udp $P\n"),
    Case("onbuild", "ONBUILD COPY . /app\nONBUILD RUN make $X\n"),
    Case(
        "onbuild-of-a-stage",
        f"FROM {BASE} AS on\nONBUILD COPY a.txt /triggered\nFROM on\nENV A=1\n",
        f"FROM {BASE}\nCOPY a.txt /triggered\nENV A=1\n",
    ),
    Case("copy-files", "COPY a.txt /\nCOPY a.txt b.txt /d/\nCOPY *.txt c.m? /w/\nCOPY a.txt /n/e\nCOPY [ab].txt /c/\n"
         "COPY [\"with space/f 1\", \"/to here/\"]\n"),
    Case("copy-directories", "COPY src /a\nCOPY src /b/\nCOPY src/lib /c\nCOPY src/lib docs /d/\nCOPY . /all/\n"),
    Case("copy-over", "COPY src /t/\nCOPY a.txt /t/main.c\nCOPY docs /t/\nCOPY b.txt /bin/new\n"),
    Case("copy-owners", "COPY --chown=5 a.txt /1\nCOPY --chown=app:extra src /2/\nCOPY --chown=0:9 b.txt /n/3\n"
         "COPY --chmod=600 a.txt tool /m/\nCOPY --chmod=0755 b.txt /x\n"),
    Case("copy-symbolic-modes", "COPY --chmod=u=rw,go= a.txt tool /m/\n", "COPY --chmod=600 a.txt tool /m/\n"),
    Case(
        "copy-from-stage",
        f"FROM {BASE} AS one\nRUN mkdir /o && echo x > /o/f && chown 5:6 /o/f && chmod 640 /o/f && ln -s f /o/l\n"
        f"FROM {BASE}\nCOPY --from=one /o /p\nCOPY --from=0 /o/f /q\nCOPY --from=one --chown=9 /o/f /r\n",
    ),
    Case("copy-from-image", f"FROM scratch\nCOPY --from={BASE} /etc /e\nCOPY --from={BASE} /bin/busybox /b\n"),
    Case("copy-parents", "COPY --parents src/lib/x.c ./docs /p/\nCOPY --parents src/./lib/deep /q/\n",
         "COPY src/lib/x.c /p/src/lib/x.c\nCOPY docs /p/docs\nCOPY src/lib/deep /q/lib/deep\n"
         "RUN chmod 700 /p/src/lib /q/lib\n"),
    Case("copy-exclude", "COPY --exclude=**/*.o --exclude=link src /s\nCOPY --exclude=b* *.txt /t/\n",
         "COPY src /s\nRUN rm /s/lib/x.o /s/lib/deep/y.o /s/link\nCOPY a.txt /t/\n"),
    Case("copy-link", "COPY --link a.txt /l/\nCOPY --link --chown=5:6 src /m/s\n",
         "COPY a.txt /l/\nCOPY --chown=5:6 src /m/s\n"),
    Case("copy-inline", "ARG V=v\nCOPY <<one <<\"two\" /i/\none $V\none\ntwo W\ntwo\n",
         "RUN mkdir /i && echo one v > /i/one && echo two W > /i/two\n"),
    Case("add-archives", "ADD p.tar /p\nADD z.tar.gz /z/\nADD x.tar.xz b.tar.bz2 /d/\nADD a.txt /f\n"
         "ADD --unpack=false p.tar /c/\n",
         "ADD p.tar /p\nADD z.tar.gz /z/\nADD x.tar.xz b.tar.bz2 /d/\nADD a.txt /f\nCOPY p.tar /c/\n", times=True),
    Case("stages", f"FROM {BASE} AS a\nRUN echo a > /a\nFROM a AS b\nENV B=1\nCOPY --from=a /a /a2\nFROM {BASE} AS c\n",
         target="b"),
    Case("unused-stages", f"FROM {BASE} AS used\nENV A=1\nFROM {BASE} AS unused\nRUN exit 7\nFROM used\nENV B=2\n",
         f"FROM {BASE}\nENV A=1\nENV B=2\n"),
    Case("run-inline", "RUN <<EOF\nset -e\necho $((1 + 1)) > /x\nEOF\nRUN cat <<A - <<B > /y\none\nA\ntwo\nB\n",
         "RUN echo 2 > /x && echo two > /y\n"),
    Case("run-script", "RUN <<S\n#!/bin/cat\nnot a shell\nS\nRUN <<-'T' cat > /t\n\t\"quoted\" $HOME\n\tT\n",
         "RUN echo '\"quoted\" $HOME' > /t\n"),
    Case("run-changes", "RUN rm -r /etc/sub && mkdir /n && ln -s x /n/l && ln /bin/busybox /n/h && chmod 700 /etc\n"),
    Case("run-mounts",
         f"FROM {BASE} AS s\nRUN echo from s > /f\nFROM {BASE}\n"
         "RUN --mount=target=/m/ctx --mount=type=bind,from=s,source=/f,target=/m/f --mount=type=tmpfs,target=/m/t"
         " --mount=type=cache,target=/m/c,uid=5 cat /m/f /m/ctx/a.txt > /o && touch /m/t/x /m/c/x\n",
         f"FROM {BASE}\nRUN echo from s > /o && echo -n A >> /o\n"),
    Case("escape", f"# escape=`\nFROM {BASE}\nENV A=C:\\dir B=`$A\nLABEL x=a`\n b=c\n",
         f"FROM {BASE}\nENV A=C:\\\\dir B=\\$A\nLABEL x=a\\\n b=c\n"),
    Case("comments", "# one\nENV A=1 \\\n  # inside\n  B=2 \\\n\n  C=3\nRUN echo '# no' \\\n # comment\n  x > /o\n"),
)  # fmt: skip
