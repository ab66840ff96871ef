"""Commands of the program ``crosstask``, each in a file with its name. They import the rooms; no room imports them."""
