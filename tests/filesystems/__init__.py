"""Real filesystems with real faults: what the kernel can do itself is not imitated."""
