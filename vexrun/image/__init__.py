"""Guest images: a Debian root filesystem made by our roles, its kernel, initrd and manifest."""
