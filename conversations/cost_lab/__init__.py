"""What a conversation would have cost, and kept, under each strategy with each model. Calls no model, costs nothing."""
