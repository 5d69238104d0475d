"""doctor: what this host lacks, and what to do about it. Needs no agent; sees more as root."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from agent.cli.agentoptions import data_root_option, policy_option, registries_option
from agent.cli.declare import command, of_type, option
from agent.cli.main import DONE, ERROR
from agent.cli.options import json_option
from agent.cli.output import paint, print_json, safe

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@command(short_help="Check that this host has what is needed, and say what to do.")
@option(
    "--state",
    metavar="DIR",
    type=of_type("Path", exists=True, file_okay=False, path_type=Path),
    help="Also ask the registries that its apps name.",
)
@data_root_option("Where images and containers will be.")
@registries_option
@policy_option
@json_option
def doctor(state: Path | None, data_root: Path, registries: Path, policy: Path, as_json: bool) -> int:
    """Check kernel, cgroups, overlayfs, nftables, privileges and more; exit 1 when something needed is missing.

    \b
    sudo holdfast doctor
    sudo holdfast doctor --state ./state --json
    """
    from agent.cli.doctor import cgroups, identity, kernel, network, software
    from agent.cli.doctor.finding import Host, Verdict, run_check
    from agent.cli.doctor.imagepolicy import check_policy
    from agent.cli.doctor.registries import check_registries

    host = Host(data_root.absolute(), state, os.geteuid() == 0, registries.absolute(), policy.absolute())
    checks = (*kernel.CHECKS, *cgroups.CHECKS, *network.CHECKS, *software.CHECKS, *identity.CHECKS)
    findings = [*(run_check(check, host) for check in checks), check_policy(host), *check_registries(host)]
    fit = all(finding.verdict is not Verdict.FAIL for finding in findings)
    if as_json:
        print_json({"fit": fit, "checks": [asdict(finding) for finding in findings]})
        return DONE if fit else ERROR
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        print(
            f"{paint(finding.verdict.value.ljust(4), _COLOURS[finding.verdict])}  {finding.check.ljust(width)}  ",
            end="",
        )
        print(safe(finding.message).replace("\n", f"\n      {' ' * width}  "))
        if finding.advice:
            print(f"      {' ' * width}  -> {safe(finding.advice)}")
    print(paint("this host is fit for Holdfast", "green") if fit else paint("something needed is missing", "red"))
    return DONE if fit else ERROR
