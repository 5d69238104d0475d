"""git repositories as contexts: fetched by git as a subprocess that obeys nobody but us."""
