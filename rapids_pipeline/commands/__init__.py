"""What a person types: one file a subcommand, from its options over the flow to the report."""
