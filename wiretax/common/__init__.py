"""What all rooms use: names of commands, command lines, launchers, untrusted files, folders."""
