"""Code that several commands share: parsers, LightningCLI, recipes by name, folders of runs, errors as sentences."""
