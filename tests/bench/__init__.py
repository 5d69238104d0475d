"""``make bench``: one table of speed, Holdfast beside docker, podman and bare crun, all measured in the same run."""
