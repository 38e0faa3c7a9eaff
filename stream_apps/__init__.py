"""Market state, scoring and the paper model as pure cores; Faust agents and a replay that run them."""
