"""What every x86 guest has, whatever system it runs: page tables, registers, interrupt gates."""
