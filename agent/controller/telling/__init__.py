"""What happened and how things stand, for people and programs: events, log lines, conditions, stories."""
