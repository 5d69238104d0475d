"""All boots of the guest, in order."""

from __future__ import annotations

from scenario import install, powercut, reboot, upgrade
from scenario import limits as limit
from scenario.runner import Boot

POWER_OFF, REBOOT, POWER_CUT = 0, 77, 78

FIRST = Boot(
    (
        install.units_install,
        install.units_run,
        install.doctor_is_content,
        install.apps_come_up,
        install.published_port_answers,
        limit.containers_have_cgroups_of_their_own,
        limit.limits_are_in_force,
        limit.oom_kill_is_reported_and_healed,
        upgrade.agent_restart_touches_no_container,
        upgrade.agent_kill_touches_no_container,
        upgrade.names_are_answered_without_an_agent,
        upgrade.upgrade_runs_under_containers,
        upgrade.upgraded_keeper_starts_and_reaps,
        upgrade.keeper_restart_touches_no_container,
        upgrade.keeper_kill_touches_no_container,
        upgrade.adopted_container_is_healed,
        reboot.data_is_noted,
    ),
    REBOOT,
    frozenset({install.units_install, install.units_run, install.apps_come_up}),
)
SECOND = Boot(
    (
        reboot.reboot_is_quick,
        reboot.reboot_brings_everything_back,
        reboot.reboot_keeps_volumes,
        reboot.nothing_of_the_last_boot_is_left,
        powercut.changes_are_under_way,
    ),
    POWER_CUT,
)
THIRD = Boot(
    (
        powercut.power_cut_brings_everything_back,
        powercut.power_cut_leaves_no_half_image,
        powercut.power_cut_keeps_volumes,
        powercut.database_is_whole,
        powercut.down_stops_everything,
        powercut.down_survives_an_agent_restart,
        powercut.units_stop,
    ),
    POWER_OFF,
)
BOOTS = (FIRST, SECOND, THIRD)
