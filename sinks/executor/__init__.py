"""The paper executor: a thin consumer around the paper model, with a journal in the database."""
