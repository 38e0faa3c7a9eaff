"""The scoring models, one file of data each, and the layers and gates that several share."""
