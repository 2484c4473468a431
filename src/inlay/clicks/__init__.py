"""Will this be clicked? Categories and counts to a probability: the models that embedding tables are measured in."""
