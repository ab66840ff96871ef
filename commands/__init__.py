"""The commands of ``crosstask``, each in a file with its name. They import the rooms; no room imports them."""
