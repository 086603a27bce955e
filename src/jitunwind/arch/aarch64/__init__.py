"""AArch64: AAPCS64."""
