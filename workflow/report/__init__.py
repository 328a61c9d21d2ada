"""The step `report`: one HTML page that says which checkpoint to train, and how sure that is."""
