"""Order-flow state, scoring and the paper model as pure cores; Faust agents and replay that drive them."""
