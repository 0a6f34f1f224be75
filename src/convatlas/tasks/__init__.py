"""LightningModules, one per problem type: loss, metrics and optimizer around a network."""
