"""The adapter as files that load elsewhere, proven by loading them."""
