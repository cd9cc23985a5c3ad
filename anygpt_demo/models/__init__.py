"""Plain torch modules of the official architectures, sized by a config. No I/O here."""
