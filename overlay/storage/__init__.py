"""Storage: the only room that touches disks and networks.  It does what it is told and decides nothing about checkpoints."""
