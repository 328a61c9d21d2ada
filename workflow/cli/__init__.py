"""The command `rlready`: its subcommands, and the tables that they print."""
