"""Which images may come to this host: a file of rules, of which the first that matches decides.

    default: reject                       # what no rule matches: accept or reject
    rules:
      - match: registry.example/shop/**   # * is any text without /, ** any text
        policy: require                   # accept, reject, or require signatures
        keys: [shop.pub, spare.pub]       # public keys: files beside this one, or PEM text
        signers: 1                        # how many of the keys must have signed; 1 when not said
        identity: origin.example/shop/web # the repository that signatures name; the image's own when not said
        bundles: true                     # instead: signatures as cosign 3 makes them count too, which name none
      - match: "dir:/srv/**"              # of the host: oci:PATH, docker-archive:PATH, dir:PATH; loaded: archive:
        policy: accept

Names are full ones: docker.io/library/alpine, not alpine. Every problem is told with its line and column.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal

import yaml

from agent.errors import InvalidSpec, Problem, Refused
from agent.image.trust.signature import PublicKey, load_public_key
from agent.oci.reference import InvalidReference, Reference, parse_repository
from agent.store.ownfiles import FileStamp, read_bounded, stamp_file
from agent.values import frozen

MAX_FILE = 1 << 20
MAX_KEY = 64 << 10
MAX_RULES = 1000
Verdict = Literal["accept", "reject", "require"]
_LOCAL = ("oci:", "docker-archive:", "dir:", "archive:")
_RULE_KEYS = frozenset({"match", "policy", "keys", "signers", "identity", "bundles"})


@frozen
class Rule:
    """One rule. ``place`` is ``file:line``; ``signers`` of ``keys`` have to have signed for ``identity``.

    ``bundles``: signatures count that name a digest and no repository.
    """

    match: str
    verdict: Verdict
    place: str
    keys: tuple[PublicKey, ...] = ()
    signers: int = 1
    identity: Reference | None = None
    bundles: bool = False

    def matches(self, subject: str) -> bool:
        """Whether the rule is about ``subject``: ``registry/repository``, or the kind and path of a local image."""
        return _compile(self.match).fullmatch(subject) is not None


@frozen
class Policy:
    """All rules; the last one is the default."""

    rules: tuple[Rule, ...]

    def find(self, subject: str) -> Rule:
        """The rule that decides."""
        return next(rule for rule in self.rules if rule.matches(subject))


def subject_of(reference: Reference) -> str:
    """What rules are matched with: the repository, whatever the tag."""
    return f"{reference.registry}/{reference.repository}"


@lru_cache(maxsize=MAX_RULES)
def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*+)", pattern)
    wild = {"*": "[^/]*"}
    text = "".join(wild.get(part, ".*") if part.startswith("*") else re.escape(part) for part in parts)
    return re.compile(text, re.DOTALL)


class PolicyFile:
    """The policy in a file, read again when the file or one of its keys has changed. Thread-safe.

    A file that has become wrong refuses every image until it is corrected. One that is not ``required`` may be absent:
    then everything may come in.
    """

    def __init__(self, path: Path, *, required: bool = True) -> None:
        self.path = path
        self._required = required
        self._lock = threading.Lock()
        self._stamps: dict[Path, FileStamp] | None = None
        self._policy: Policy | InvalidSpec

    def current(self) -> Policy:
        """The policy now. Raises InvalidSpec with every problem of the file."""
        with self._lock:
            if self._stamps is None or any(stamp_file(path) != stamp for path, stamp in self._stamps.items()):
                self._read()
            if isinstance(self._policy, InvalidSpec):
                raise self._policy
            return self._policy

    def _read(self) -> None:
        stamps: dict[Path, FileStamp] = {}

        def read(path: Path, limit: int) -> bytes:
            stamps[path] = stamp_file(path)
            return read_bounded(path, limit)

        try:
            self._policy = _Parser(self.path, read).parse()
        except InvalidSpec as error:
            self._policy = error
        if not self._required and stamps == {self.path: ()}:
            self._policy = Policy((Rule("**", "accept", str(self.path)),))
        self._stamps = stamps


class _Parser:
    """One reading of the file: all problems are gathered, then raised together."""

    def __init__(self, path: Path, read: Callable[[Path, int], bytes]) -> None:
        self._path = path
        self._read = read
        self._problems: list[Problem] = []

    def parse(self) -> Policy:
        fields = self._fields(self._compose(), frozenset({"default", "rules"}), "the policy")
        rules = [rule for node in self._items(fields.get("rules"), "rules") if (rule := self._rule(node)) is not None]
        default = fields.get("default")
        verdict = self._text(default, "default")
        if default is None:
            self._complain(None, "default is missing: say accept or reject")
        elif verdict not in ("accept", "reject"):
            self._complain(default, "default: must be accept or reject")
        if self._problems:
            raise InvalidSpec(self._problems)
        last: Verdict = "accept" if verdict == "accept" else "reject"
        return Policy((*rules, Rule("**", last, self._place(default))))

    def _compose(self) -> yaml.Node | None:
        try:
            root: yaml.Node | None = yaml.compose(self._read(self._path, MAX_FILE).decode(), yaml.CSafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            place = (mark.line + 1, mark.column + 1) if mark else (0, 0)
            raise InvalidSpec([Problem(str(self._path), *place, f"not valid YAML: {error.problem}")]) from None
        except (OSError, UnicodeError, yaml.YAMLError, Refused) as error:
            said = getattr(error, "strerror", None) or getattr(error, "message", None) or "not UTF-8 text"
            raise InvalidSpec([Problem(str(self._path), 0, 0, f"the image policy: {said}")]) from None
        return root

    def _complain(self, node: yaml.Node | None, message: str) -> None:
        line, column = (node.start_mark.line + 1, node.start_mark.column + 1) if node is not None else (0, 0)
        self._problems.append(Problem(str(self._path), line, column, message))

    def _place(self, node: yaml.Node | None) -> str:
        return f"{self._path}:{node.start_mark.line + 1}" if node is not None else str(self._path)

    def _fields(self, node: yaml.Node | None, known: frozenset[str], what: str) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            self._complain(node, f"{what} must be a mapping")
            return {}
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = str(key.value)
            if name not in known or not isinstance(key, yaml.ScalarNode):
                self._complain(key, f"{name[:60]!r} is unknown: {', '.join(sorted(known))} are known")
            elif name in found:
                self._complain(key, f"{name} is said twice")
            found[name] = value
        return found

    def _items(self, node: yaml.Node | None, what: str) -> list[yaml.Node]:
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode) or len(node.value) > MAX_RULES:
            self._complain(node, f"{what} must be a list of at most {MAX_RULES}")
            return []
        return list(node.value)

    def _text(self, node: yaml.Node | None, what: str) -> str:
        if node is not None and not isinstance(node, yaml.ScalarNode):
            self._complain(node, f"{what} must be a text")
            return ""
        return str(node.value) if node is not None else ""

    def _rule(self, node: yaml.Node) -> Rule | None:
        fields = self._fields(node, _RULE_KEYS, "a rule")
        if not fields:
            return None
        match, verdict = self._match(fields, node), self._text(fields.get("policy"), "policy")
        if verdict not in ("accept", "reject", "require"):
            self._complain(fields.get("policy", node), "policy: must be accept, reject or require")
        keys = tuple(key for item in self._items(fields.get("keys"), "keys") if (key := self._key(item)) is not None)
        if verdict == "require" and not fields.get("keys"):
            self._complain(node, "policy: require needs keys")
        for name in ("keys", "signers", "identity", "bundles"):
            if verdict in ("accept", "reject") and name in fields:
                self._complain(fields[name], f"{name} means nothing with policy: {verdict}")
        different = len({key.fingerprint for key in keys})
        signers = self._signers(fields.get("signers"), different) if verdict == "require" else 1
        decided: Verdict = "accept" if verdict == "accept" else "require" if verdict == "require" else "reject"
        identity, bundles = self._identity(fields.get("identity")), self._flag(fields.get("bundles"), "bundles")
        if bundles and identity is not None:
            self._complain(fields["identity"], "identity: with bundles, which name no repository, it cannot be checked")
        return Rule(match, decided, self._place(node), keys, signers, identity, bundles)

    def _flag(self, node: yaml.Node | None, what: str) -> bool:
        text = self._text(node, what)
        if node is not None and text not in ("true", "false"):
            self._complain(node, f"{what}: must be true or false")
        return text == "true"

    def _match(self, fields: dict[str, yaml.Node], rule: yaml.Node) -> str:
        node = fields.get("match")
        match = self._text(node, "match")
        first, slash, _ = match.partition("/")
        full = slash and (first == "localhost" or any(mark in first for mark in ".:["))
        if not match:
            self._complain(node or rule, "match is missing: the repositories the rule is about")
        elif not match.startswith((*_LOCAL, "*")) and not full:
            self._complain(node, f"match: write the full name, such as docker.io/library/{match[:60]}")
        elif first == "index.docker.io" or (first == "docker.io" and match.count("/") == 1 and "*" not in match):
            self._complain(node, f"match: write docker.io/library/{match.rpartition('/')[2][:60]}")
        return match if match.startswith(_LOCAL) else match.lower()

    def _signers(self, node: yaml.Node | None, keys: int) -> int:
        text = self._text(node, "signers") or "1"
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
        if not 1 <= number <= max(keys, 1):
            self._complain(node, f"signers: must be 1 to {max(keys, 1)}, the number of different keys")
        return number

    def _identity(self, node: yaml.Node | None) -> Reference | None:
        text = self._text(node, "identity")
        try:
            return parse_repository(text) if text else None
        except InvalidReference as error:
            self._complain(node, f"identity: {error}")
            return None

    def _key(self, node: yaml.Node) -> PublicKey | None:
        text = self._text(node, "keys")
        try:
            if text.lstrip().startswith("-----BEGIN"):
                return load_public_key(f"the key at line {node.start_mark.line + 1}", text.encode())
            path = self._path.parent / text
            return load_public_key(str(path), self._read(path, MAX_KEY))
        except Refused as error:
            self._complain(node, f"keys: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        except (OSError, ValueError) as error:
            self._complain(node, f"keys: {text[:200]}: {getattr(error, 'strerror', None) or error}")
        return None
