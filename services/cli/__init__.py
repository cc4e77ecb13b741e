"""The command line `qig`. `app` declares every command and imports none of their work until one is run."""
