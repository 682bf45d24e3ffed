"""The command that makes files of poses; each module turns one source into our format."""
