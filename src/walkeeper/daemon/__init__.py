"""The programs: reads what the operator asked for, wires the rooms together, and turns errors into exit codes."""
