"""The step "models": two listed models on the same case, both curves and both answers."""
