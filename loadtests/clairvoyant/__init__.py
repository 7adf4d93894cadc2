"""What a schedule that knows every arrival ahead reaches: a yardstick for policies, between them and the bound."""
