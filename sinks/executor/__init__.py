"""The executor: acts on signals. A thin consumer around the paper model, with its journal in the database."""
