"""Studies whose truth is planted: generator, scenarios, and the judgement of the answers to them."""
