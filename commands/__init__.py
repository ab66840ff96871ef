"""The commands of ``crosstask``, a file each; they import rooms, and no room imports them."""
