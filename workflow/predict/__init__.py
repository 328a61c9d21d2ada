"""The steps `outcome`, `fit`, `rank`, `plan`, `tag` and `validate`."""
