"""A module for each command or for a few that belong together; ``agent.cli.main`` says where each is."""
