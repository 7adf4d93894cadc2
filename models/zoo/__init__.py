"""Model families that ship with the project, with the recipes that made them."""
